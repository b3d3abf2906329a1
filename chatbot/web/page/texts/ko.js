export default {
  "page.title": "채팅",
  "duration.seconds": "{seconds}초",
  "duration.minutes": "{minutes}분 {seconds}초",
};
