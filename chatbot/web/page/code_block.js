// A block of code: its language, a button that copies it, and colours once it is finished and near the window.

import { copyText, h, icon } from "./dom.js";
import { t } from "./i18n.js";

/** Longer code stays without colours: it would need tens of thousands of elements. */
const COLOURED_MAX = 60_000;
/** Lines in one element: while code grows, only the last element is laid out again. */
const CHUNK_LINES = 200;
const COPIED_MS = 2000;
const NEAR_END_PX = 40;
/** Margins within which code is coloured and pictures are fetched. */
export const NEAR_WINDOW = "600px 0px";

const uncoloured = new WeakMap(); // element -> function that colours it
const observer = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      uncoloured.get(target)?.();
    }
  },
  { rootMargin: NEAR_WINDOW, scrollMargin: NEAR_WINDOW }, // scrollMargin: of the log, which scrolls within the page
);

/** The first word of a fence's line, as shown: `py title="x"` is py. */
export function languageOf(info) {
  return (info ?? "").trim().split(/[\s,{]/, 1)[0].slice(0, 30);
}

export class CodeBlock {
  #text = "";
  #language = "";
  #label = h("span", { class: "code-language" });
  #code = h("code");
  #region = h("pre", { tabindex: "0", role: "group", dir: "ltr" }, this.#code);
  #lines = 0; // in the last element of #code

  constructor() {
    const copy = h("button", { type: "button", class: "code-copy", onclick: () => this.#copy(copy) });
    showCopy(copy, false);
    const header = h("div", { class: "code-header" }, this.#label, copy);
    this.element = h("div", { class: "code-block" }, header, this.#region);
  }

  /** Shows `token`. `open`: more of its code follows. */
  update(token, open) {
    this.#showLanguage(languageOf(token.lang));
    if (token.text.slice(0, this.#text.length) !== this.#text) this.#clear();
    const added = token.text.slice(this.#text.length);
    if (added) this.#append(added);
    this.#text = token.text;
    if (open || !this.#language || token.text.length > COLOURED_MAX) return;
    uncoloured.set(this.element, () => this.#colour());
    observer.observe(this.element);
  }

  #showLanguage(language) {
    if (language === this.#language && this.#region.hasAttribute("aria-label")) return;
    this.#language = language;
    this.#label.textContent = language || t("code.plain");
    this.#region.setAttribute("aria-label", language ? t("code.region", { language }) : t("code.region_plain"));
  }

  #clear() {
    this.#code.replaceChildren();
    this.#text = "";
    this.#lines = 0;
  }

  /** Adds `text`. Where the last line was in view, the new last line is. */
  #append(text) {
    const { scrollHeight, scrollTop, clientHeight } = this.#region;
    const isAtEnd = this.#text !== "" && scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    this.#addLines(text);
    if (isAtEnd) this.#region.scrollTop = this.#region.scrollHeight;
  }

  #addLines(text) {
    for (const line of text.match(/[^\n]*\n|[^\n]+$/g) ?? []) {
      let last = this.#code.lastChild;
      if (!last || this.#lines >= CHUNK_LINES) {
        last = this.#code.appendChild(h("span", { class: "code-lines" }, document.createTextNode("")));
        this.#lines = 0;
      }
      last.firstChild.appendData(line);
      if (line.endsWith("\n")) this.#lines += 1;
    }
  }

  async #colour() {
    const text = this.#text, coloured = await colouredCode(text, this.#language);
    if (coloured && text === this.#text) this.#code.replaceChildren(coloured);
  }

  async #copy(button) {
    const worked = await copyText(this.#text);
    showCopy(button, worked);
    if (worked) setTimeout(() => showCopy(button, false), COPIED_MS);
  }
}

/** The code with colours; null if it has none, or the network fails: it can be read without. */
async function colouredCode(text, language) {
  try {
    const { colour } = await import("./highlighter.js");
    return await colour(text, language);
  } catch (fault) {
    console.warn("code is shown without colours:", fault);
    return null;
  }
}

function showCopy(button, isCopied) {
  button.replaceChildren(icon(isCopied ? "check" : "copy"), h("span", {}, t(isCopied ? "code.copied" : "code.copy")));
}
