export default {
  "page.title": "Chat",
  "duration.seconds": "{seconds} s",
  "duration.minutes": "{minutes} min {seconds} s",
};
