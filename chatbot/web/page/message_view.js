// One message of a conversation: its parts, its state, what can be done with it.

import { copyText, h, iconButton } from "./dom.js";
import { formatDate, formatMoment, t } from "./i18n.js";
import "./later_texts.js";
import { partViewClass } from "./message_parts.js";
import { usageWords } from "./message_usage.js";
import { wordsForFailure } from "./reply_failure.js";

const COPIED_MS = 2000;
const REASONS = new Set(["length", "content_filter"]); // of a complete reply that deserve a word

/**
 * The view of `message`, as in the history with `timing`, `error` and `outbox` besides. `actions`: see README.md.
 *
 * @returns {{element: HTMLElement, update: (message: object) => void, destroy: () => void}}
 */
export function createMessageView(message, actions) {
  const view = new MessageView(message, actions);
  view.update(message);
  return { element: view.element, update: (newer) => view.update(newer), destroy: () => view.destroy() };
}

let viewCount = 0;

class MessageView {
  #actions;
  #message = null;
  #authorId = `author-${(viewCount += 1)}`;
  #parts = []; // {view, viewClass}
  #header = h("div", { class: "message-header" });
  #body = h("div", { class: "message-body" });
  #state = h("div", { class: "message-state" });
  #footer = h("div", { class: "message-footer" });
  #keys = new Map(); // element -> what it was made from

  constructor(message, actions) {
    this.#actions = actions;
    const children = [this.#header, this.#body, this.#state, this.#footer];
    const attributes = { class: "message", tabindex: "-1", "aria-labelledby": this.#authorId };
    this.element = h("article", attributes, children);
  }

  update(message) {
    this.#message = message;
    const isBusy = message.status === "streaming" || message.status === "queued";
    const { role, status, message_id: messageId } = message;
    Object.assign(this.element.dataset, { role, status, messageId });
    if (isBusy) this.element.setAttribute("aria-busy", "true"); // a screen reader waits for the whole reply
    this.#make(this.#header, [role, message.model, message.created_at], () => headerOf(message, this.#authorId));
    this.#updateParts(message);
    const { error, outbox, finish_reason: reason } = message;
    const state = [status, error, outbox, reason, this.#parts.length > 0, this.#actions.can];
    this.#make(this.#state, state, () => this.#stateOf(message));
    const below = [status, message.siblings, this.#actions.can, usageWords(message)];
    this.#make(this.#footer, below, () => this.#footerOf(message));
    if (!isBusy) this.element.removeAttribute("aria-busy");
  }

  destroy() {
    for (const { view } of this.#parts) view.destroy();
  }

  #updateParts(message) {
    const parts = partsOf(message), last = parts.length - 1;
    parts.forEach((part, index) => {
      const viewClass = partViewClass(part, message.role);
      if (this.#parts[index]?.viewClass !== viewClass) this.#replacePart(index, viewClass);
      const isGrowing = message.status === "streaming" && index === last;
      this.#parts[index].view.update(part, { message, actions: this.#actions, isGrowing });
    });
    for (const { view } of this.#parts.splice(parts.length)) {
      view.destroy();
      view.element.remove();
    }
  }

  #replacePart(index, viewClass) {
    const view = new viewClass(), old = this.#parts[index]?.view;
    if (old) {
      old.destroy();
      old.element.replaceWith(view.element);
    } else {
      this.#body.append(view.element);
    }
    this.#parts[index] = { view, viewClass };
  }

  /** Fills `element` by `make` if what it is made from differs, and keeps the focus on the same button. */
  #make(element, from, make) {
    const key = JSON.stringify(from);
    if (this.#keys.get(element) === key) return;
    this.#keys.set(element, key);
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    element.replaceChildren(...[make()].flat(Infinity).filter(Boolean));
    if (focused) (element.querySelector(`[data-action="${focused}"]:not(:disabled)`) ?? this.element).focus();
  }

  #stateOf(message) {
    const { status, error, outbox } = message;
    if (status === "unsent") return this.#unsentState(outbox);
    if (status === "queued") return h("p", { class: "message-waiting" }, t("message.queued"));
    if (status === "streaming") {
      return this.#parts.length ? null : h("p", { class: "message-waiting is-growing" }, t("message.waiting"));
    }
    if (status === "cancelled") return h("p", { class: "message-notice" }, t("message.cancelled"));
    if (status === "failed" || status === "interrupted") {
      const detail = status === "failed" && error ? wordsForFailure(error) : null; // why it was interrupted says no more
      const words = detail ? `${t(`message.${status}`)} ${detail}` : t(`message.${status}`);
      const again = this.#allows("regenerate") && this.#button("retry", () => this.#actions.retry?.(this.#message));
      return h("p", { class: `message-notice is-${status}` }, words, " ", again);
    }
    if (!REASONS.has(message.finish_reason)) return null;
    const further = message.finish_reason === "length" && this.#allows("continue") && this.#button("continue", () => this.#actions.continue());
    return h("p", { class: "message-notice" }, t(`message.ended_${message.finish_reason}`), " ", further);
  }

  #unsentState(outbox) {
    const words = outbox?.words || t(`message.unsent_${outbox?.state ?? "waiting"}`);
    const buttons = outbox?.state !== "sending" && [
      this.#button("retry", () => this.#actions.retry?.(this.#message)),
      " ",
      this.#button("discard", () => this.#actions.discard?.(this.#message)),
    ];
    return h("p", { class: "message-notice" }, words, " ", buttons);
  }

  #button(action, onclick) {
    return h("button", { type: "button", class: "text-button", dataset: { action }, onclick }, t(`message.${action}`));
  }

  #allows(action) {
    return this.#actions.can?.[action] !== false && typeof this.#actions[action] === "function";
  }

  #footerOf(message) {
    const { role, status } = message;
    if (status === "streaming" || status === "queued" || status === "unsent") return [];
    const shown = { copy: true, edit: role === "user", regenerate: role === "assistant", fork: role === "assistant" };
    const icons = { copy: "copy", edit: "edit", regenerate: "retry", fork: "fork" };
    const isPossible = (name) => (name === "copy" ? textOf(message) !== "" : this.#allows(name));
    const names = Object.keys(shown).filter((name) => shown[name] && isPossible(name));
    const buttons = names.map((action) => {
      const act = action === "copy" ? () => this.#copy() : () => this.#actions[action](this.#message);
      return iconButton(icons[action], t(`message.${action}`), act, { dataset: { action } });
    });
    const usage = usageWords(message);
    const used = usage && h("span", { class: "message-usage", title: usage.detail }, usage.short);
    return [this.#siblingsOf(message), h("div", { class: "message-actions" }, buttons), used];
  }

  #siblingsOf({ siblings = [], message_id: id }) {
    if (siblings.length < 2) return null;
    const at = siblings.indexOf(id);
    const step = (name, label, index) => {
      const act = () => this.#actions.selectSibling?.(this.#message, siblings[index]);
      const disabled = index < 0 || index >= siblings.length;
      return iconButton(name, t(label), act, { dataset: { action: label }, disabled });
    };
    const place = h("span", {}, t("message.sibling", { number: at + 1, count: siblings.length }));
    const buttons = [step("left", "message.previous", at - 1), place, step("right", "message.next", at + 1)];
    return h("div", { class: "message-siblings", role: "group", "aria-label": t("message.siblings") }, buttons);
  }

  async #copy() {
    const text = textOf(this.#message);
    const worked = await (this.#actions.copy ? this.#actions.copy(text) : copyText(text));
    const button = this.#footer.querySelector("[data-action=copy]");
    if (worked === false || !button) return;
    const done = iconButton("check", t("code.copied"), () => this.#copy(), { dataset: { action: "copy" } });
    const hadFocus = button === document.activeElement;
    button.replaceWith(done);
    if (hadFocus) done.focus();
    setTimeout(() => done.isConnected && done.replaceWith(button), COPIED_MS);
  }
}

function headerOf({ role, model, created_at: at }, authorId) {
  const name = role === "assistant" && model ? model : t(`message.role_${role}`);
  return [
    h("h2", { class: "message-author", id: authorId, dir: "auto" }, name),
    at && h("time", { datetime: at, title: formatMoment(at) }, formatDate(at)),
  ];
}

/** A message of one text may have no parts. */
function partsOf({ parts, content }) {
  const known = (parts ?? []).filter(Boolean);
  return known.length || !content ? known : [{ type: "text", text: content }];
}

function textOf(message) {
  const texts = partsOf(message).filter((one) => one.type === "text");
  return texts.map((one) => one.text).join("\n\n");
}
