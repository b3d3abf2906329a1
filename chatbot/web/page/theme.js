// Sets the chosen theme before the first paint. Without a choice the style sheet follows the system's theme.
"use strict";
try {
  const theme = localStorage.getItem("chatbot.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage is blocked: the system's theme
}
