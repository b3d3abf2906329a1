// What is wrong, in words, above the composer: the connection, the session, the key, the model.

import { fill, h } from "./dom.js";
import { t } from "./i18n.js";
import { wordsFor } from "./words.js";

const LINK_SHOWN_MS = 1_500; // a connection that comes back sooner was no event for the user

/**
 * `read()` gives {open, model, isOffline, isKeyMissing, isLogViewMissing}: the open conversation, the model's state.
 * `actions`: {wake, startNew, reload, demandKey, checkModel, loadLogView}. Returns the function that shows what is wrong now.
 */
export function createBanners(element, read, actions) {
  let timer = null, isLinkShown = false;

  /** Whether the connection has been down for long enough to say so. */
  function isLinkDown(open) {
    const isDown = open?.load === "loaded" && (open.link === "waiting" || (open.link === "connecting" && isLinkShown));
    if (!isDown) {
      clearTimeout(timer);
      timer = null;
      isLinkShown = false;
    } else {
      timer ??= setTimeout(() => { isLinkShown = true; render(); }, LINK_SHOWN_MS);
    }
    return isDown && isLinkShown;
  }

  function render() {
    const { open, model, isOffline, isKeyMissing, isLogViewMissing } = read(), found = [], isDown = isLinkDown(open);
    if (isOffline) found.push({ kind: "warning", words: t("banner.offline") });
    else if (isDown) found.push({ kind: "warning", words: t("banner.reconnecting"), label: t("banner.now"), onclick: actions.wake });
    if (isLogViewMissing) found.push({ kind: "warning", words: t("banner.part_missing"), label: t("retry"), onclick: actions.loadLogView });
    if (open?.data?.ended) found.push({ kind: "info", words: t(`gone.${open.data.ended}`), label: t("list.new"), onclick: actions.startNew });
    else if (open?.link === "stopped" && open.problem?.status !== 401) {
      found.push({ kind: "danger", words: wordsFor(open.problem), label: t("retry"), onclick: actions.reload });
    }
    if (isKeyMissing) found.push({ kind: "danger", words: t("banner.key"), label: t("key.enter"), onclick: actions.demandKey });
    else if (model !== "available" && !isOffline) {
      const words = t(model === "loading" ? "banner.model_loading" : "banner.model_missing");
      found.push({ kind: "warning", words, label: t("retry"), onclick: actions.checkModel });
    }
    const state = JSON.stringify(found);
    if (element.dataset.state === state) return;
    element.dataset.state = state;
    fill(element, found.map(({ kind, words, label, onclick }) => h("div", { class: "banner", dataset: { kind } }, h("p", {}, words),
      label ? h("button", { type: "button", class: "button", onclick }, label) : null)));
  }

  return render;
}
