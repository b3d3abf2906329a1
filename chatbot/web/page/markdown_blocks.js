// Splits a growing Markdown text into top-level blocks. A block that no later text can change is finished: it is read
// once and not again. Pure: no document is needed.

import { readBlocks } from "./markdown_tokens.js";

const FENCE_START = /^(`{3,}|~{3,})([^\n]*)\n/;
const FENCE_END = /\n {0,3}([`~]{3,})[ \t]*$/;
// A line that may become something else with its next character: # of a heading, 1. of a list, a fence.
const UNDECIDED_LINE = /(?:^|\n)( {0,3}(?:[-=*_+#>]+|\d{1,3}[.)]?|[`~]+[\w+#-]*|\\|\$)[ \t]*)$/;
const LINK_START = /(!?)\[([^\]\n]*)\]\([^)\s]*$/; // its address is not complete
const DELIMITERS = /^[ \t|:-]*$/; // the second line of a table
const ROW = /^ {0,3}\|/;

/**
 * @typedef {object} Block
 * @property {string} key what it was made from: blocks with equal keys look the same
 * @property {object} token marked's token, or `{type: "plain", raw}`
 * @property {number} start where it begins in the text that was read
 * @property {boolean} open whether more of its text may follow
 */

export class BlockSplitter {
  #text = "";
  #end = 0; // of the finished blocks, in #text
  #finished = 0; // blocks
  #links = {};
  #linksNumber = 0; // of the version of #links
  #isDone = false;
  #fence = null; // {marker, info, start: of its code, searched: up to here its end was looked for}
  charactersRead = 0; // by the lexer, for tests

  /**
   * The blocks of `text` from number `from` on; the earlier ones are as they were. `isDone`: no more text follows.
   *
   * @returns {{from: number, blocks: Block[]}}
   */
  update(text, isDone = false) {
    text = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
    const isLonger = text.slice(0, this.#text.length) === this.#text; // startsWith is 20 times slower
    if (!isLonger || this.#isDone) this.#restart(); // a reply that was interrupted may be written again
    this.#isDone = isDone;
    this.#text = text;
    if (isDone) return this.#readAll();
    const from = this.#finished;
    if (this.#fence && !this.#isFenceClosed()) return { from, blocks: [this.#openCode()] };
    this.#fence = null;
    const blocks = this.#readRest();
    this.#finish(blocks);
    return { from, blocks };
  }

  #restart() {
    this.#end = this.#finished = 0;
    this.#links = {};
    this.#fence = null;
  }

  /** All is read once more: later text may define links of earlier blocks, and no mistake of the splitter must stay. */
  #readAll() {
    this.#restart();
    const blocks = this.#read(this.#text, false);
    this.#end = this.#text.length;
    this.#finished = blocks.length;
    return { from: 0, blocks };
  }

  #read(text, isGrowing) {
    this.charactersRead += text.length;
    const blocks = [], before = JSON.stringify(this.#links);
    const tokens = readBlocks(text, this.#links, isGrowing);
    if (JSON.stringify(this.#links) !== before) this.#linksNumber += 1;
    let start = 0;
    for (const token of tokens) {
      if (token.type !== "space") blocks.push({ key: this.#keyOf(token), token, start, open: false });
      start += token.raw.length;
    }
    return blocks;
  }

  /** Definitions of links count only for blocks that may use them. */
  #keyOf(token) {
    const links = token.raw.includes("[") ? this.#linksNumber : 0;
    return `${token.type} ${token.open === true} ${links} ${token.raw}`;
  }

  #readRest() {
    const rest = this.#text.slice(this.#end), held = heldBack(rest);
    const blocks = this.#read(closedEmphasis(rest.slice(0, rest.length - held)), true);
    const last = blocks.at(-1);
    if (!last) return blocks;
    last.open = !isClosedFence(last, rest);
    const fence = last.token.type === "code" && FENCE_START.exec(last.token.raw);
    if (fence && last.open) {
      const start = this.#end + last.start + fence[0].length;
      this.#fence = { marker: fence[1], info: fence[2], start, searched: start - 1 };
    }
    return blocks;
  }

  /** Counts blocks as finished that no later text can change: the first line of the next block is complete. */
  #finish(blocks) {
    let count = blocks.length - 1;
    if (count >= 0 && !blocks[count].open) count += 1;
    else while (count > 0 && !isDecided(blocks[count].token)) count -= 1;
    if (count <= 0) return;
    const last = blocks[count - 1];
    this.#end += count < blocks.length ? blocks[count].start : last.start + last.token.raw.length;
    this.#finished += count;
  }

  #isFenceClosed() {
    const { marker } = this.#fence;
    const closing = new RegExp(`\\n {0,3}${marker[0]}{${marker.length},}[ \\t]*(?=\\n)`, "g");
    closing.lastIndex = this.#fence.searched;
    if (closing.test(this.#text)) return true;
    this.#fence.searched = Math.max(this.#fence.searched, this.#text.lastIndexOf("\n"));
    return false;
  }

  /** The code of a fence that is not closed, found without the lexer: it may be very long. */
  #openCode() {
    const { marker, info, start } = this.#fence;
    let text = this.#text.slice(start);
    const line = text.lastIndexOf("\n") + 1; // the last line may become the end of the fence
    if (isFencePiece(text.slice(line), marker)) text = text.slice(0, Math.max(line - 1, 0));
    return { key: "", token: { type: "code", raw: "", lang: info.trim(), text: text.replace(/\n$/, "") }, open: true };
  }
}

/**
 * `text` with an end for the code, the bold words or the link that its last line has begun, so that they are shown as
 * such at once and not as signs first. Only the last block is changed by this, which is read again anyway.
 */
function closedEmphasis(text) {
  const start = text.lastIndexOf("\n") + 1, paragraph = text.slice(text.lastIndexOf("\n\n") + 1);
  if (/^ {0,3}(?:```|~~~)/m.test(paragraph)) return text;
  let line = text.slice(start).replace(/(?<!\S)[*_`~]+$/, "");
  line = line.replace(LINK_START, (whole, sign, words) => (sign ? "" : words));
  const outside = line.replace(/(`+)[^`]*\1/g, "");
  if (outside.includes("`")) line += "`";
  else if ((outside.match(/\*\*/g) ?? []).length % 2) line = `${line.trimEnd()}**`;
  return text.slice(0, start) + line;
}

function isFencePiece(line, marker) {
  const piece = line.trim();
  return piece !== "" && piece === marker[0].repeat(piece.length);
}

/** Whether later text leaves this a block of its own: a formula without an end would be a part of the one before. */
function isDecided(token) {
  return token.raw.includes("\n") && !(token.type === "formulaBlock" && token.open);
}

function isClosedFence({ token, start }, text) {
  if (token.type !== "code" || text[start + token.raw.length] !== "\n") return false;
  const begin = FENCE_START.exec(token.raw), end = FENCE_END.exec(token.raw);
  return begin !== null && end !== null && isFencePiece(end[1], begin[1]) && end[1].length >= begin[1].length;
}

/** How many characters at the end are not shown yet: those that would be shown as something else for a moment. */
function heldBack(rest) {
  const undecided = UNDECIDED_LINE.exec(rest);
  if (undecided) return undecided[1].length;
  const lines = rest.slice(rest.lastIndexOf("\n\n") + 1).split("\n");
  let at = lines.length - 1; // the first line of a table is text until its second line is complete
  if (at > 0 && DELIMITERS.test(lines[at]) && ROW.test(lines[at - 1])) at -= 1;
  const isTableStart = ROW.test(lines[at]) && !(at > 0 && ROW.test(lines[at - 1]));
  return isTableStart ? lines.slice(at).join("\n").length : 0;
}
