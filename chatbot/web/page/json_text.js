// JSON laid out for reading. Pure.

/** Longer texts are shown as they are. */
const LAID_OUT_MAX = 200_000;

/**
 * `text` with its values on lines of their own, or null if it is not an object or a list in JSON. Nothing but white
 * space changes: JSON.stringify would round long numbers and drop repeated names.
 */
export function layOutJson(text) {
  if (text.length > LAID_OUT_MAX || !/^\s*[[{]/.test(text)) return null;
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const pieces = text.match(/"(?:\\.|[^"\\])*"|[[\]{},:]|[^\s[\]{},:"]+/g);
  let depth = 0, laidOut = "";
  pieces.forEach((piece, index) => {
    const isEmpty = /[[{]/.test(piece) && /[\]}]/.test(pieces[index + 1]);
    const closesEmpty = /^[\]}]$/.test(piece) && /^[[{]$/.test(pieces[index - 1]);
    if (/^[\]}]$/.test(piece)) {
      depth -= 1;
      if (!closesEmpty) laidOut += lineBreak(depth);
    }
    laidOut += piece;
    if (/^[[{]$/.test(piece)) {
      depth += 1;
      if (!isEmpty) laidOut += lineBreak(depth);
    } else if (piece === ",") laidOut += lineBreak(depth);
    else if (piece === ":") laidOut += " ";
  });
  return laidOut;
}

function lineBreak(depth) {
  return `\n${"  ".repeat(depth)}`;
}
