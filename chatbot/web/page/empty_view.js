// What is in place of a log: a new conversation, one that is being read, or why one cannot be shown.

import { fill, h, icon } from "./dom.js";
import { t } from "./i18n.js";
import { wordsFor } from "./words.js";

const SUGGESTIONS = ["empty.suggestion_1", "empty.suggestion_2", "empty.suggestion_3"];

/** Whether nothing can be said in the open conversation any more. */
export function isGone(open) {
  return Boolean(open?.data?.ended) || open?.problem?.status === 404;
}

/** What there is in place of a conversation that is gone, in a few words. */
export function titleOfGone(open) {
  return open.problem?.name === "session-not-found" ? t("gone.not_found") : t("gone.title");
}

/** Returns the function that shows what there is to say of the conversation `id` (null: a new one). */
export function createEmptyView(element, { startNew, send, reload }) {
  const button = (label, onclick, more = "") => h("button", { type: "button", class: `button${more}`, onclick }, label);

  function content(title, words, buttons = []) {
    return [h("h2", {}, title), words ? h("p", {}, words) : null, buttons.length ? h("div", { class: "suggestions" }, buttons) : null];
  }

  /** [what makes it differ, the function that makes it]. */
  function choose(id, open) {
    if (id === null) {
      const suggestions = () => SUGGESTIONS.map((key) => button(t(key), () => send(t(key))));
      return ["new", () => content(t("empty.title"), t("empty.words"), suggestions())];
    }
    if (isGone(open)) {
      const words = open.problem ? wordsFor(open.problem) : t(`gone.${open.data.ended}`);
      return [`gone ${words}`, () => content(titleOfGone(open), words, [button([icon("plus"), t("list.new")], startNew, " primary")])];
    }
    if (open?.problem) {
      const words = wordsFor(open.problem);
      return [`failed ${words}`, () => content(t("failed.title"), words, [button(t("retry"), reload)])];
    }
    if (open?.load === "loading") {
      return ["loading", () => h("p", { class: "loading" }, h("span", { class: "spinner", "aria-hidden": "true" }), " ", t("list.loading"))];
    }
    return ["blank", () => content(t("empty.title"), "")];
  }

  return function render(id, open) {
    const [kind, make] = choose(id, open);
    if (element.dataset.kind === kind) return;
    element.dataset.kind = kind;
    fill(element, make());
  };
}
