// Shows a growing Markdown text. Tokens become elements one by one; no markup is parsed, so no text becomes a script.

import { CodeBlock } from "./code_block.js";
import { h, icon } from "./dom.js";
import { t } from "./i18n.js";
import { BlockSplitter } from "./markdown_blocks.js";
import { decodeReferences, safeAddress } from "./markdown_tokens.js";
import { formulaElement } from "./math.js";

/** Elements that raw HTML may make, without attributes. All other HTML is shown as text. */
const HTML_ELEMENTS = new Set("b i u s em strong small mark sub sup kbd del ins code var".split(" "));
const TAG = /^<(\/?)([a-z]+)\s*\/?>$/i;
const MESSAGE_LEVEL = 2; // of the heading above each message
/** A block that takes long to show is shown less often: at most this part of the time goes into it. */
const SHARE_OF_TIME = 0.1;

export class MarkdownView {
  #splitter = new BlockSplitter();
  #shown = []; // of each block: {key, open, element, code}
  #text = "";
  #isDone = false;
  #notBefore = 0; // performance.now() of the next update
  #timer = 0;
  blocksMade = 0; // for tests

  constructor(className = "markdown") {
    this.element = h("div", { class: className });
  }

  /** Shows `text`. `isDone`: no more follows. */
  update(text, isDone) {
    if (text === this.#text && isDone === this.#isDone) return;
    this.#text = text;
    this.#isDone = isDone;
    clearTimeout(this.#timer);
    const wait = this.#notBefore - performance.now();
    if (isDone || wait <= 0) this.#show();
    else this.#timer = setTimeout(() => this.#show(), wait);
  }

  destroy() {
    clearTimeout(this.#timer);
  }

  #show() {
    const began = performance.now();
    const { from, blocks } = this.#splitter.update(this.#text, this.#isDone);
    blocks.forEach((block, index) => this.#place(block, from + index));
    for (const { element } of this.#shown.splice(from + blocks.length)) element.remove();
    const now = performance.now();
    this.#notBefore = now + (now - began) / SHARE_OF_TIME;
  }

  #place(block, index) {
    const old = this.#shown[index];
    if (old?.code && block.token.type === "code" && old.open) {
      old.code.update(block.token, block.open);
      this.#shown[index] = { ...old, key: block.key, open: block.open };
      return;
    }
    if (old && old.key === block.key && !(old.open && !block.open && hasCodeInside(block.token))) return;
    this.blocksMade += 1;
    const made = makeBlock(block, block.token.type === "heading" ? this.#levelOf(block.token.depth, index) : 0);
    if (old) old.element.replaceWith(made.element);
    else this.element.append(made.element);
    this.#shown[index] = { key: block.key, open: block.open, depth: block.token.depth ?? 0, ...made };
  }

  /** The level of a heading on the page: below that of the message, and no level is left out. */
  #levelOf(depth, index) {
    const open = [];
    for (const one of [...this.#shown.slice(0, index), { depth }]) {
      if (!one.depth) continue;
      while (open.at(-1) >= one.depth) open.pop();
      open.push(one.depth);
    }
    return Math.min(MESSAGE_LEVEL + open.length, 6);
  }
}

function makeBlock({ token, open }, level = 0) {
  if (token.type === "code") {
    const code = new CodeBlock();
    code.update(token, open);
    return { element: code.element, code };
  }
  if (level) {
    const attributes = { dir: "auto", "data-depth": token.depth };
    return { element: h(`h${level}`, attributes, inlineNodes(token.tokens)), code: null };
  }
  return { element: blockElement(token, open), code: null };
}

/** Code in a list or a quote gets its colours when the block is finished: until then it is made again and again. */
function hasCodeInside({ type, raw }) {
  return (type === "list" || type === "blockquote") && /```|~~~/.test(raw);
}

/**
 * The element of a block token; definitions of links have none to see. `open`: more of it may follow. `dir`: a quote or
 * a list item has one direction, its first letter's, which the browser does not find in elements with their own.
 */
export function blockElement(token, open, dir = "auto") {
  switch (token.type) {
    case "paragraph":
      return h("p", { dir }, inlineNodes(token.tokens));
    case "heading": // in a quote or a list
      return h("p", { dir }, h("strong", {}, inlineNodes(token.tokens)));
    case "blockquote":
      return h("blockquote", { dir: "auto" }, token.tokens.map((one) => nestedElement(one, open)));
    case "list":
      return listElement(token, open);
    case "table":
      return tableElement(token);
    case "formulaBlock":
      return formulaElement(token.text, true, token.open);
    case "hr":
      return h("hr");
    case "html":
      return htmlBlock(token.raw);
    case "text": // of a list item
      return h("span", { dir }, token.tokens ? inlineNodes(token.tokens) : decodeReferences(token.text));
    case "def":
    case "space":
    case "checkbox":
      return h("span", { hidden: true });
    default:
      return h("p", { dir: "auto", class: "plain-text" }, token.raw);
  }
}

function nestedElement(token, open) {
  return token.type === "code" ? makeBlock({ token, open }).element : blockElement(token, open, null);
}

function htmlBlock(raw) {
  const lines = raw.trim();
  if (/^<br\s*\/?>$/i.test(lines)) return h("br");
  if (/^<hr\s*\/?>$/i.test(lines)) return h("hr");
  return h("p", { dir: "auto", class: "plain-text" }, lines);
}

function listElement(token, open) {
  const items = token.items.map((item) => {
    const label = t(item.checked ? "message.task_done" : "message.task_open");
    const attributes = { type: "checkbox", checked: item.checked, disabled: true, "aria-label": label };
    const box = item.task && h("input", attributes);
    const content = item.tokens.filter((one) => one.type !== "checkbox" && one.type !== "space");
    return h("li", { dir: "auto", class: item.task ? "task" : null }, box, content.map((one) => nestedElement(one, open)));
  });
  if (!token.ordered) return h("ul", {}, items);
  return h("ol", { start: Number.isSafeInteger(token.start) && token.start !== 1 ? token.start : null }, items);
}

function tableElement(token) {
  const cell = (tag, one, column) => {
    const attributes = { dir: "auto", "data-align": token.align[column], scope: tag === "th" ? "col" : null };
    return h(tag, attributes, inlineNodes(one.tokens));
  };
  const head = h("tr", {}, token.header.map((one, column) => cell("th", one, column)));
  const rows = token.rows.map((row) => h("tr", {}, row.map((one, column) => cell("td", one, column))));
  const table = h("table", {}, h("thead", {}, head), h("tbody", {}, rows));
  return h("div", { class: "table-region", role: "group", tabindex: "0", "aria-label": t("message.table") }, table);
}

/** The nodes of inline tokens. HTML elements without attributes are open until their end tag or the last token. */
export function inlineNodes(tokens) {
  const root = [], open = [{ name: "", children: root }];
  for (const token of tokens) {
    const tag = token.type === "html" ? TAG.exec(token.raw) : null;
    const name = tag?.[2].toLowerCase();
    const target = open.at(-1).children;
    if (name === "br") target.push(h("br"));
    else if (!HTML_ELEMENTS.has(name)) target.push(inlineNode(token));
    else if (!tag[1]) open.push({ name, children: [], raw: token.raw });
    else if (open.at(-1).name === name) close(open);
    else target.push(token.raw);
  }
  while (open.length > 1) close(open);
  return root;
}

function close(open) {
  const { name, children } = open.pop();
  open.at(-1).children.push(h(name, {}, children));
}

function inlineNode(token) {
  switch (token.type) {
    case "text":
      return token.tokens ? inlineNodes(token.tokens) : decodeReferences(token.text);
    case "escape":
      return token.text;
    case "strong":
    case "em":
    case "del":
      return h(token.type, {}, inlineNodes(token.tokens));
    case "codespan":
      return h("code", { dir: "auto" }, token.text);
    case "br":
      return h("br");
    case "checkbox":
      return null; // its list item has it
    case "formula":
      return formulaElement(token.text, false, token.open);
    case "link":
      return linkElement(token.href, token.title, inlineNodes(token.tokens), token.raw);
    case "image": // is not loaded: its server would learn the address and the time of each reader
      return pictureLink(token);
    default:
      return token.raw;
  }
}

function pictureLink({ href, title, text, raw }) {
  return linkElement(href, title, [icon("image"), decodeReferences(text || t("message.image"))], raw);
}

function linkElement(href, title, children, raw) {
  const address = safeAddress(href);
  if (!address) return raw;
  const tip = decodeReferences(title ?? "") || new URL(address).host;
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow", title: tip }, children);
}
