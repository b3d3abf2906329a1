// The table of shortcuts.

import { openDialog } from "./dialogs.js";
import { fill, h } from "./dom.js";
import { t } from "./i18n.js";
import { isMac } from "./shortcuts.js";

const CTRL = isMac ? "⌘" : "Ctrl", SHIFT = isMac ? "⇧" : "Shift";

function shortcutTexts() {
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

export function showHelp() {
  return openDialog({ title: t("help.title"), build: (close) => h("div", {},
    fill(h("dl", { class: "shortcuts" }), shortcutTexts().map(({ keys, label }) => h("div", {}, h("dt", {}, keys.map((one) => h("kbd", {}, one))), h("dd", {}, label)))),
    h("div", { class: "dialog-buttons" }, h("button", { type: "button", class: "button primary", autofocus: true, onclick: () => close(null) }, t("dialog.close")))) });
}
