// Markdown as marked's tokens, with formulas. Pure: no document is needed.

import { Lexer, Marked } from "../vendor/marked/marked.esm.js";

/** A longer block that is not code is shown as it is: some of marked's expressions take quadratic time. */
export const BLOCK_MAX = 50_000;
/** Deeper quotes and lists are shown as text: marked calls itself for each level. */
const MARKERS_MAX = 60;

// A blank line ends a formula, closed or not: TeX allows none there, and a forgotten end must not take the whole reply.
const FORMULA_BLOCK =
  /^ {0,3}(?:\$\$(?!\$)((?:(?!\n[ \t]*\n)[^]){1,10000}?)\$\$|\\\[((?:(?!\n[ \t]*\n)[^]){1,10000}?)\\\])[ \t]*(?:\n|$)/;
const OPEN_FORMULA_BLOCK = /^ {0,3}(?:\$\$(?!\$)|\\\[)((?:(?!\n[ \t]*\n)[^]){0,10000})$/;
const FORMULA_START = /\n {0,3}(?:\$\$|\\\[)/;
// \( \), and \[ \] or $$ $$ within a line. The bounds keep hostile texts from taking quadratic time.
const INLINE_FORMULA = /^(?:\\\(([^]{1,4000}?)\\\)|\\\[([^]{1,4000}?)\\\]|\$\$(?!\$)([^$]{1,4000}?)\$\$)/;
const OPEN_INLINE_FORMULA = /^\\[([]([^]*)$/;
// $ $ has no space inside, no code, and no letter or digit right behind.
const DOLLAR_FORMULA = /^\$(?![\s$])((?:\\[^\n]|[^\\$\n`]){1,1000}?)(?<!\s)\$(?![\p{L}\p{N}${])/u;
const STRONG = /^\*\*(?![\s*])((?:[^*`\n\\]|`[^`\n]+`){1,500})(?<!\s)\*\*(?!\*)/;
const SIGN = /[\\^_={]/;
const WEAK_SIGN = /[-+*/<>()|']/;
const WORD = /(?<![\\\p{L}])\p{L}{2,}/u;

/** Whether the text between two dollar signs is a formula, and not what is between two prices or variables. */
export function isDollarFormula(text) {
  const hasWords = WORD.test(text.replace(/\\[a-z]+\{[^{}]*\}/g, ""));
  if (SIGN.test(text)) return !(hasWords && /^\d/.test(text));
  return !hasWords && (text.length <= 3 || WEAK_SIGN.test(text));
}

const formulaBlock = {
  name: "formulaBlock",
  level: "block",
  start(source) {
    if (!this.lexer.options.hasFormulas) return undefined; // else every paragraph would search the whole rest
    const end = source.indexOf("\n\n");
    const found = FORMULA_START.exec(end < 0 ? source : source.slice(0, end));
    return found ? found.index + 1 : undefined;
  },
  tokenizer(source) {
    const closed = FORMULA_BLOCK.exec(source);
    if (closed) return { type: "formulaBlock", raw: closed[0], text: (closed[1] ?? closed[2]).trim(), open: false };
    const open = this.lexer.options.isGrowing && OPEN_FORMULA_BLOCK.exec(source);
    return open ? { type: "formulaBlock", raw: open[0], text: open[1].trim(), open: true } : undefined;
  },
};

const formula = {
  name: "formula",
  level: "inline",
  start(source) {
    const at = source.indexOf("$"); // marked itself stops at each backslash
    return at < 0 ? undefined : at;
  },
  tokenizer(source) {
    const known = INLINE_FORMULA.exec(source);
    if (known) {
      const text = (known[1] ?? known[2] ?? known[3]).trim();
      return { type: "formula", raw: known[0], text, display: known[1] === undefined, open: false };
    }
    const dollar = DOLLAR_FORMULA.exec(source);
    if (dollar && isDollarFormula(dollar[1])) {
      return { type: "formula", raw: dollar[0], text: dollar[1], display: false, open: false };
    }
    const open = this.lexer.options.isGrowing && OPEN_INLINE_FORMULA.exec(source);
    return open ? { type: "formula", raw: open[0], text: open[1], display: false, open: true } : undefined;
  },
};

/**
 * **"Words"** before a letter. CommonMark sees no end of emphasis between a quotation mark and a letter, which in Korean,
 * Japanese and Chinese follows without a space.
 */
const strong = {
  name: "strong",
  level: "inline",
  tokenizer(source) {
    const found = STRONG.exec(source);
    return found ? { type: "strong", raw: found[0], text: found[1], tokens: this.lexer.inlineTokens(found[1]) } : undefined;
  },
};

const settings = new Marked({ gfm: true, breaks: false, extensions: [formulaBlock, formula, strong] }).defaults;

/**
 * The top-level tokens of `text`; the texts of their `raw` together are `text`. `links`: definitions that earlier text
 * has, by name; gets those of this text, too. `isGrowing`: more text follows, so a formula that is not closed is one.
 */
export function readBlocks(text, links = {}, isGrowing = false) {
  if (isTooDeep(text)) return [{ type: "plain", raw: text }];
  const hasFormulas = text.includes("$$") || text.includes("\\[");
  const lexer = new Lexer({ ...settings, hasFormulas, isGrowing });
  Object.assign(lexer.tokens.links, links);
  let tokens;
  try {
    tokens = lexer.lex(text);
  } catch (fault) {
    console.error("a message is shown without Markdown:", fault);
    return [{ type: "plain", raw: text }];
  }
  Object.assign(links, tokens.links);
  if (tokens.reduce((length, one) => length + one.raw.length, 0) !== text.length) return [{ type: "plain", raw: text }];
  return [...tokens];
}

/** Whether a line begins with very many quotes or list items. */
function isTooDeep(text) {
  const prefix = new RegExp(`^(?:[ \\t]*(?:>|[-+*][ \\t])){${MARKERS_MAX}}`, "m");
  return prefix.test(text);
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
