// The question for the API key.

import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";

/**
 * Asks for the API key until one works or the user gives up. `check(key)` resolves to words if it does not work, null if
 * it does. Resolves to {key, isRemembered}, or null.
 */
export function askKey({ words, check }) {
  return openDialog({ title: t("key.title"), className: "key-dialog", build: (close) => {
    const input = h("input", { type: "password", id: "dialog-key", name: "key", autocomplete: "current-password", required: true,
      autofocus: true, spellcheck: "false", "aria-describedby": "key-words" });
    const remember = h("input", { type: "checkbox", id: "dialog-remember", "aria-describedby": "key-hint" });
    const problem = h("p", { id: "key-words", class: "dialog-problem", role: "alert" }, words ?? "");
    const submit = h("button", { type: "submit", class: "button primary" }, t("key.submit"));
    async function send(event) {
      event.preventDefault();
      const key = input.value.trim();
      if (!key) return;
      submit.disabled = true;
      problem.textContent = "";
      const fault = await check(key);
      submit.disabled = false;
      if (fault === null) {
        close({ key, isRemembered: remember.checked });
        return;
      }
      problem.textContent = fault;
      input.setAttribute("aria-invalid", "true");
      input.select();
      input.focus();
    }
    return h("form", { method: "dialog", onsubmit: send },
      h("p", {}, t("key.explanation")), h("label", { for: "dialog-key" }, t("key.label")), input, problem,
      h("label", { class: "check" }, remember, t("key.remember")),
      h("p", { class: "hint", id: "key-hint" }, t("key.remember_hint")),
      h("div", { class: "dialog-buttons" },
        h("button", { type: "button", class: "button", onclick: () => close(null) }, t("dialog.later")), submit));
  } });
}
