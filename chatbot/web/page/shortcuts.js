// The keyboard. Ctrl is Command on a Mac.

import { t } from "./i18n.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const CTRL = isMac ? "⌘" : "Ctrl", SHIFT = isMac ? "⇧" : "Shift";

/** What the help shows. */
export function shortcutTexts() {
  return [
    { keys: [CTRL, SHIFT, "O"], label: t("shortcut.new") },
    { keys: [CTRL, "K"], label: t("shortcut.search") },
    { keys: [SHIFT, "Esc"], label: t("shortcut.focus") },
    { keys: ["Esc"], label: t("shortcut.stop") },
    { keys: [CTRL, SHIFT, ";"], label: t("shortcut.copy_code") },
    { keys: ["Enter"], label: t("shortcut.send") },
    { keys: [SHIFT, "Enter"], label: t("shortcut.line") },
    { keys: ["Alt", "↑ ↓"], label: t("shortcut.messages") },
    { keys: ["F2"], label: t("shortcut.rename") },
    { keys: [CTRL, "/"], label: t("shortcut.help") },
  ];
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
