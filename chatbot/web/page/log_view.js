// The log: the messages of the selected branch, with what is being sent, and the scrolling.

import { h } from "./dom.js";
import { t } from "./i18n.js";
import { createMessageView } from "./message_view.js";
import { isSendKey } from "./shortcuts.js";

const NEAR_END_PX = 80;
const NEAR_START_PX = 300;
/**
 * `elements`: {scroller, log, toEnd, older}. `actions`: those of the message views.
 */
export function createLogView({ scroller, log, toEnd, older }, actions) {
  const views = new Map(); // by key: {element, update, destroy, message}
  const aliases = new Map(); // id of a posted message -> its key while it was being sent: its view stays
  let shownId = null, isAtEnd = true;

  const distance = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
  scroller.addEventListener("scroll", () => {
    isAtEnd = distance() < NEAR_END_PX;
    toEnd.hidden = isAtEnd;
    if (scroller.scrollTop < NEAR_START_PX && !older.hidden && !older.disabled && !isAtEnd) older.click();
  }, { passive: true });
  new ResizeObserver(() => isAtEnd && scrollToEnd()).observe(log);
  new ResizeObserver(() => isAtEnd && scrollToEnd()).observe(scroller);
  toEnd.addEventListener("click", () => { scrollToEnd(); log.focus(); });

  function scrollToEnd() {
    scroller.scrollTop = scroller.scrollHeight;
  }

  function clear() {
    for (const view of views.values()) view.destroy?.();
    views.clear();
    aliases.clear();
    log.replaceChildren();
  }

  /** Shows `messages` of the conversation `id` (null: a new one). */
  function render(id, messages, { hasOlder = false, isOlderLoading = false } = {}) {
    const isOther = id !== shownId;
    if (isOther) {
      clear();
      shownId = id;
      isAtEnd = true;
      toEnd.hidden = true;
    }
    older.hidden = !hasOlder;
    older.disabled = isOlderLoading;
    const firstBefore = log.firstElementChild, topBefore = firstBefore?.getBoundingClientRect().top ?? 0;
    const isOlderAdded = !isAtEnd && firstBefore && messages[0] && !views.has(keyOf(messages[0]));
    if (isOlderAdded) scroller.style.overflowAnchor = "none"; // not every browser keeps the place, so none does it here
    const focused = focusedAction();
    const wanted = new Set();
    let place = null;
    for (const message of messages) {
      const key = keyOf(message);
      wanted.add(key);
      let view = views.get(key);
      if (!view) {
        view = { ...createMessageView(message, actions), message, editor: null };
        views.set(key, view);
      } else if (view.message !== message) {
        view.message = message;
        view.update(message);
      }
      const element = view.editor ?? view.element, next = place ? place.nextElementSibling : log.firstElementChild;
      if (next !== element) log.insertBefore(element, next);
      place = element;
    }
    for (const [key, view] of views) {
      if (wanted.has(key)) continue;
      view.destroy?.();
      view.element.remove();
      view.editor?.remove();
      views.delete(key);
    }
    if (focused && !focused.article.isConnected) giveFocus(focused);
    if (isAtEnd) scrollToEnd();
    else if (isOlderAdded && firstBefore.isConnected) {
      scroller.scrollTop += firstBefore.getBoundingClientRect().top - topBefore; // what was read stays where it is
      requestAnimationFrame(() => { scroller.style.overflowAnchor = ""; });
    }
  }

  /** Where the focus is among the messages, to give it to what comes in that place: another version of a message. */
  function focusedAction() {
    const article = document.activeElement?.closest("article.message");
    if (!article || !log.contains(article)) return null;
    return { article, index: [...log.children].indexOf(article), action: document.activeElement.dataset.action };
  }

  function giveFocus({ index, action }) {
    const next = log.children[Math.min(index, log.children.length - 1)];
    if (!next) return;
    const same = action && next.querySelector(`[data-action="${action}"]:not(:disabled)`);
    const version = action?.startsWith("message.") && next.querySelector('[data-action^="message."]:not(:disabled)');
    (same || version || next).focus({ preventScroll: true });
  }

  function keyOf({ message_id: id }) {
    return aliases.get(id) ?? id;
  }

  function viewOf(messageId) {
    return views.get(aliases.get(messageId) ?? messageId);
  }

  return {
    render,
    clear,
    /** A new conversation was made: its views stay. */
    rename(from, to) {
      if (shownId === from) shownId = to;
    },
    scrollToEnd() {
      isAtEnd = true;
      scrollToEnd();
    },
    /** The message `messageId` was sent as the outbox item `itemId`: keep its view. */
    alias(messageId, itemId) {
      if (views.has(itemId)) aliases.set(messageId, itemId);
    },
    /** Puts an editor in place of a message. `onSave(text)` gets the new text. */
    edit(message, text, onSave) {
      const view = viewOf(message.message_id);
      if (!view || view.editor) return;
      view.editor = editor(text, onSave, () => {
        view.editor.replaceWith(view.element);
        view.editor = null;
        view.element.focus({ preventScroll: true });
      });
      isAtEnd = false;
      view.element.replaceWith(view.editor);
      view.editor.scrollIntoView({ block: "nearest" });
      view.editor.querySelector("textarea").focus({ preventScroll: true });
    },
    focusMessage(offset) {
      const all = [...log.querySelectorAll("article.message")];
      const at = all.indexOf(document.activeElement?.closest?.("article.message"));
      const next = all[at < 0 ? all.length - 1 : Math.max(0, Math.min(all.length - 1, at + offset))];
      next?.focus();
      next?.scrollIntoView({ block: "nearest" });
    },
  };
}

/** A form with the text of a message; Enter saves as in the composer, Escape gives up. */
export function editor(text, onSave, onEnd) {
  const area = h("textarea", { "aria-label": t("edit.label"), value: text, rows: "3", dir: "auto", onkeydown: (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      onEnd();
    } else if (isSendKey(event)) save(event);
  } });
  function save(event) {
    event.preventDefault();
    const value = area.value.trim();
    if (!value) return;
    onEnd();
    onSave(value);
  }
  return h("form", { class: "editor", onsubmit: save }, area, h("div", { class: "editor-buttons" },
    h("span", { class: "hint" }, t("edit.hint")),
    h("button", { type: "button", class: "button", onclick: onEnd }, t("dialog.cancel")),
    h("button", { type: "submit", class: "button primary" }, t("edit.save"))));
}
