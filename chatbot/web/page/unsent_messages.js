// Messages that are not in the log: those behind the running reply, and those on their way to the service.

import { fill, h } from "./dom.js";
import { t } from "./i18n.js";
import { wordsFor } from "./words.js";

/** The turns that wait behind the running reply, with their buttons. `actions`: {edit(turn), remove(turn), leave()}. */
export function renderTray(tray, waiting, actions) {
  tray.hidden = waiting.length === 0;
  const known = waiting.map((one) => `${one.message.message_id} ${one.message.content}`).join("\n");
  if (tray.dataset.known === known) return;
  tray.dataset.known = known;
  const focused = [...tray.querySelectorAll("button")].indexOf(document.activeElement);
  fill(tray, waiting.length ? h("h2", {}, t("queue.title", { count: waiting.length })) : null,
    h("ol", {}, waiting.map((turn) => h("li", { class: "tray-item" },
      h("span", { class: "tray-text", dir: "auto" }, turn.message.content || t("queue.files")),
      h("button", { type: "button", class: "button", "aria-label": t("queue.edit_label"), onclick: () => actions.edit(turn) }, t("queue.edit")),
      h("button", { type: "button", class: "button", "aria-label": t("queue.remove_label"), onclick: () => actions.remove(turn) }, t("queue.remove"))))));
  if (focused < 0) return;
  const buttons = tray.querySelectorAll("button");
  if (buttons.length) buttons[Math.min(focused, buttons.length - 1)].focus();
  else actions.leave();
}

/** An outbox item as a message for a view. */
export function unsentMessage(item) {
  const parts = typeof item.message === "string" ? [{ type: "text", text: item.message }] : item.message;
  const words = item.problem ? wordsFor(item.problem) : "";
  return {
    message_id: item.id, role: "user", status: "unsent", parts, content: parts.map((one) => one.text ?? "").join(""),
    created_at: new Date(item.at).toISOString(), parent_id: item.parent_id ?? null, siblings: [], token_usage: null,
    finish_reason: null, finish_detail: "", model: null, calls: null, timing: null, error: null,
    outbox: { state: item.state, words, retry_at: item.retryAt },
  };
}
