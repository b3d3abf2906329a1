// Why a reply failed, in the user's language. A feed tells it by a title and an English sentence.

import { t } from "./i18n.js";

const TITLES = {
  "LLM server not available": "failure.unavailable",
  Overloaded: "failure.overloaded",
  "LLM server too slow": "failure.slow",
  "Not supported": "failure.unsupported",
  "Internal error": "failure.internal",
};
// by what the sentence says; the first that fits
const SENTENCES = [
  [/answered \d+ \(key refused\)/, "failure.key"],
  [/answered 404/, "failure.no_model"],
  [/answered (?<status>4\d\d)/, "failure.refused"],
  [/answered (?<status>\d+)/, "failure.server"],
  [/filtered the whole reply/, "failure.filtered"],
  [/length limit before|used all its tokens/, "failure.no_room"],
  [/gave no text|empty reply|and no reply$/, "failure.empty"],
  [/was cut before its end|is malformed|cannot be read/, "failure.broken"],
];

/** A sentence about `error` ({title, detail}); the service's own detail where the page has no words. */
export function wordsForFailure({ title = "", detail = "" }) {
  if (Object.hasOwn(TITLES, title)) return t(TITLES[title]);
  for (const [pattern, key] of SENTENCES) {
    const found = pattern.exec(detail);
    if (found) return t(key, found.groups);
  }
  const words = detail || title;
  return /[.!?]$/.test(words) || !words ? words : `${words}.`;
}
