// Markdown as marked's tokens, with formulas. Pure: no document is needed.

import { Lexer, Marked } from "../vendor/marked/marked.esm.js";

// Longer blocks that are not code are shown as plain text, and so are longer runs of text within a block: some of
// marked's expressions take quadratic time.
const BLOCK_MAX = 50_000;
const INLINE_MAX = 20_000;
// Deeper quotes, lists and emphasis are shown as text: marked calls itself for each level.
const DEPTH_MAX = 24;
const TABLE_CELLS_MAX = 20_000;
const FORMULA_MAX = 4000;

const FORMULA_BLOCK_START = /^ {0,3}(\$\$(?!\$)|\\\[)/;
const FORMULA_BLOCK_AHEAD = /\n {0,3}(?:\$\$|\\\[)/;
const FORMULA_START = /^(\$\$(?!\$)|\\\[|\\\()/;
const FORMULA_END = { "$$": "$$", "\\[": "\\]", "\\(": "\\)" };
// TeX allows none in a formula, and a formula without an end must not take the whole reply.
const BLANK_LINE = /\n[ \t]*\n/;
// $ $ has no space inside, no code, and no letter or digit right behind.
const DOLLAR_FORMULA = /^\$(?![\s$])((?:\\[^\n]|[^\\$\n`]){1,1000}?)(?<!\s)\$(?![\p{L}\p{N}${])/u;
const STRONG = /^\*\*(?![\s*])((?:[^*`\n\\]|`[^`\n]+`){1,500})(?<!\s)\*\*(?!\*)/;
const SIGN = /[\\^_={]/;
const WEAK_SIGN = /[-+*/<>()|']/;
const WORD = /(?<![\\\p{L}])\p{L}{2,}/u;

/** Whether the text between two dollar signs is a formula, and not what is between two prices or variables. */
export function isDollarFormula(text) {
  if (/^\p{L}{1,3}$/u.test(text)) return true;
  const hasWords = WORD.test(text.replace(/\\[a-z]+\{[^{}]*\}/g, ""));
  if (SIGN.test(text)) return !(hasWords && /^\d/.test(text));
  return !hasWords && (/^\d+$/.test(text) || WEAK_SIGN.test(text));
}

/** The formula at the start of `source`: {text, length, open}; null without an end, unless more text follows. */
function readFormula(source, start, marker, isGrowing) {
  const end = source.indexOf(FORMULA_END[marker], start);
  const text = end < 0 ? source.slice(start) : source.slice(start, end);
  if ((end < 0 && !isGrowing) || text.length > FORMULA_MAX || BLANK_LINE.test(text)) return null;
  if (end >= 0 && !text.trim()) return null;
  return { text: text.trim(), length: end < 0 ? source.length : end + marker.length, open: end < 0 };
}

const formulaBlock = {
  name: "formulaBlock",
  level: "block",
  start(source) {
    if (!this.lexer.options.hasFormulas) return undefined; // else every paragraph would search the whole rest
    const end = source.indexOf("\n\n");
    const found = FORMULA_BLOCK_AHEAD.exec(end < 0 ? source : source.slice(0, end));
    if (!found) return undefined;
    const ahead = readFormulaBlock(source.slice(found.index + 1), this.lexer.options.isGrowing);
    return ahead ? found.index + 1 : undefined;
  },
  tokenizer(source) {
    return readFormulaBlock(source, this.lexer.options.isGrowing) ?? undefined;
  },
};

function readFormulaBlock(source, isGrowing) {
  const begin = FORMULA_BLOCK_START.exec(source);
  const found = begin && readFormula(source, begin[0].length, begin[1], isGrowing);
  if (!found) return null;
  const rest = /^[ \t]*(?:\n|$)/.exec(source.slice(found.length, found.length + 100));
  if (!rest) return null; // words follow: it is a part of a paragraph
  const raw = source.slice(0, found.length + rest[0].length);
  return { type: "formulaBlock", raw, text: found.text, open: found.open };
}

const formula = {
  name: "formula",
  level: "inline",
  start(source) {
    const at = source.indexOf("$"); // marked itself stops at each backslash
    return at < 0 ? undefined : at;
  },
  tokenizer(source) {
    const begin = FORMULA_START.exec(source);
    if (begin) {
      const [marker] = begin, isGrowing = this.lexer.options.isGrowing && marker !== "$$";
      const found = readFormula(source, marker.length, marker, isGrowing);
      if (!found) return undefined;
      const raw = source.slice(0, found.length);
      return { type: "formula", raw, text: found.text, display: marker !== "\\(", open: found.open };
    }
    const dollar = DOLLAR_FORMULA.exec(source);
    if (!dollar || !isDollarFormula(dollar[1])) return undefined;
    return { type: "formula", raw: dollar[0], text: dollar[1], display: false, open: false };
  },
};

/**
 * **"Words"** before a letter. CommonMark sees no end of emphasis between a quotation mark and a letter, which follows
 * without a space in Korean, Japanese and Chinese.
 */
const strong = {
  name: "strong",
  level: "inline",
  tokenizer(source) {
    const found = STRONG.exec(source);
    if (!found) return undefined;
    return { type: "strong", raw: found[0], text: found[1], tokens: this.lexer.inlineTokens(found[1]) };
  },
};

const settings = new Marked({ gfm: true, breaks: false, extensions: [formulaBlock, formula, strong] }).defaults;

/** marked's lexer with bounds: what is too long or too deep becomes text. */
class BoundedLexer extends Lexer {
  #depth = 0;

  blockTokens(source, tokens = [], ...more) {
    if (this.#depth >= DEPTH_MAX) return pushed(tokens, { type: "plain", raw: source, text: source });
    return this.#deeper(() => super.blockTokens(source, tokens, ...more));
  }

  inlineTokens(source, tokens = []) {
    const isPlain = this.#depth >= DEPTH_MAX || source.length > INLINE_MAX;
    if (isPlain) return pushed(tokens, { type: "text", raw: source, text: source, escaped: false });
    return this.#deeper(() => super.inlineTokens(source, tokens));
  }

  #deeper(read) {
    this.#depth += 1;
    try {
      return read();
    } finally {
      this.#depth -= 1;
    }
  }
}

function pushed(tokens, token) {
  tokens.push(token);
  return tokens;
}

/**
 * The top-level tokens of `text`; the texts of their `raw` together are `text`. `links`: definitions that earlier text
 * has, by name; gets those of this text, too. `isGrowing`: more text follows, so a formula that is not closed is one.
 */
export function readBlocks(text, links = {}, isGrowing = false) {
  const hasFormulas = text.includes("$$") || text.includes("\\[");
  const lexer = new BoundedLexer({ ...settings, hasFormulas, isGrowing });
  Object.assign(lexer.tokens.links, links);
  let tokens;
  try {
    tokens = lexer.lex(text);
  } catch (fault) {
    console.error("a message is shown without Markdown:", fault);
    return [plain(text)];
  }
  Object.assign(links, tokens.links);
  const isWhole = tokens.reduce((length, one) => length + one.raw.length, 0) === text.length;
  return isWhole ? tokens.map((one) => (isTooLarge(one) ? plain(one.raw) : one)) : [plain(text)];
}

function plain(raw) {
  return { type: "plain", raw, text: raw };
}

function isTooLarge(token) {
  if (token.type === "table" && (token.rows.length + 1) * token.header.length > TABLE_CELLS_MAX) return true;
  return token.raw.length > BLOCK_MAX && token.type !== "code" && token.type !== "space";
}

// The character references that models write; HTML has 2,000.
const REFERENCES = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", reg: "®", trade: "™", hellip: "…",
  mdash: "—", ndash: "–", lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", bull: "•",
  middot: "·", deg: "°", plusmn: "±", times: "×", divide: "÷", frac12: "½", larr: "←", rarr: "→", uarr: "↑", darr: "↓",
  harr: "↔", le: "≤", ge: "≥", ne: "≠", asymp: "≈", infin: "∞", sum: "∑", radic: "√", micro: "µ", alpha: "α",
  beta: "β", gamma: "γ", delta: "δ", pi: "π", sect: "§", para: "¶", euro: "€", pound: "£", yen: "¥", cent: "¢",
  check: "✓", zwnj: "\u200c", zwj: "\u200d", ensp: "\u2002", emsp: "\u2003", thinsp: "\u2009",
};

/** `text` with its character references replaced; unknown ones stay as they are. */
export function decodeReferences(text) {
  if (!text.includes("&")) return text;
  return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(\w+));/g, (whole, decimal, hexadecimal, name) => {
    if (name !== undefined) return Object.hasOwn(REFERENCES, name) ? REFERENCES[name] : whole;
    const code = decimal === undefined ? parseInt(hexadecimal, 16) : Number(decimal);
    const isCharacter = code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
    return isCharacter ? String.fromCodePoint(code) : "\ufffd";
  });
}

const SCHEMES = new Set(["http:", "https:", "mailto:"]);

/** The address of a link that a reader may follow, or null: relative ones and other schemes are refused. */
export function safeAddress(href) {
  try {
    const url = new URL(decodeReferences(href).trim());
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}
