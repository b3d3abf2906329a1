// The keyboard. Ctrl is Command on a Mac.

export const isMac = /Mac|iPhone|iPad/.test(navigator.platform);

/** Whether a key pressed in a text sends it. On a touch screen Enter makes a new line: there is no Shift at hand. */
export function isSendKey(event) {
  // In the middle of a Korean syllable Enter ends the syllable (keyCode 229: Safari).
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return false;
  if (event.ctrlKey || event.metaKey) return true;
  return !event.shiftKey && !event.altKey && !matchMedia("(pointer: coarse)").matches;
}

/** `actions`: {new, search, focus, stop, copyCode, help, move(offset)}; `stop` returns whether there was something to stop. */
export function listenForShortcuts(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    const isCtrl = isMac ? event.metaKey : event.ctrlKey, key = event.key.toLowerCase();
    let isDone = true;
    if (isCtrl && event.shiftKey && key === "o") actions.new();
    else if (isCtrl && !event.shiftKey && key === "k") actions.search();
    else if (isCtrl && event.shiftKey && event.code === "Semicolon") actions.copyCode();
    else if (isCtrl && key === "/") actions.help();
    else if (event.shiftKey && key === "escape") actions.focus();
    else if (event.altKey && (key === "arrowup" || key === "arrowdown")) actions.move(key === "arrowup" ? -1 : 1);
    else if (key === "escape" && !event.defaultPrevented) isDone = actions.stop();
    else isDone = false;
    if (isDone) event.preventDefault();
  });
}
