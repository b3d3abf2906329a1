// The page's words, in the language of the browser or the one that was chosen.

const CHOICE = "chatbot.language"; // key in localStorage
const LOADERS = {
  en: () => import("./texts/en.js"),
  ko: () => import("./texts/ko.js"),
};

export const languages = [
  { code: "en", name: "English" },
  { code: "ko", name: "한국어" },
];

/** The language in use. */
export const language = [storedChoice(), ...navigator.languages.map((tag) => tag.toLowerCase().split("-")[0]), "en"].find(
  (code) => code in LOADERS,
);
const { default: texts } = await LOADERS[language](); // only this one is loaded
const plural = new Intl.PluralRules(language);
document.documentElement.lang = language;

function storedChoice() {
  try {
    return localStorage.getItem(CHOICE) ?? "";
  } catch {
    return ""; // storage is blocked
  }
}

/** Whether the language was chosen here; otherwise it is the browser's. */
export const isLanguageChosen = storedChoice() in LOADERS;

/** Use a language from now on (null: the browser's). Loads the page again. */
export function setLanguage(code) {
  try {
    if (code === null) localStorage.removeItem(CHOICE);
    else localStorage.setItem(CHOICE, code);
  } catch {
    // storage is blocked: the choice lasts for no longer than this page
  }
  location.reload();
}

/** Adds texts that came later. */
export function addTexts(more) {
  Object.assign(texts, more);
}

export function hasText(key) {
  return Object.hasOwn(texts, key);
}

/** A text, with `{name}` replaced by `values.name`. A text with plural forms is chosen by `values.count`. */
export function t(key, values = {}) {
  const found = texts[key];
  if (found === undefined) {
    console.error(`no text ${key}`);
    return key;
  }
  const text = typeof found === "string" ? found : (found[plural.select(values.count)] ?? found.other);
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? formatNumber(value) : String(value);
  });
}

const numbers = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
const times = new Intl.DateTimeFormat(language, { hour: "numeric", minute: "2-digit" });
const days = new Intl.DateTimeFormat(language, { month: "short", day: "numeric" });
const years = new Intl.DateTimeFormat(language, { year: "numeric", month: "short", day: "numeric" });
const moments = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });

export function formatNumber(value) {
  return numbers.format(value);
}

/** A time of today, a day of this year, or a day with its year. `moment`: Date, milliseconds or RFC 3339. */
export function formatDate(moment, now = new Date()) {
  const date = new Date(moment);
  if (date.toDateString() === now.toDateString()) return times.format(date);
  return (date.getFullYear() === now.getFullYear() ? days : years).format(date);
}

/** Day and time, for titles. */
export function formatMoment(moment) {
  return moments.format(new Date(moment));
}

/** A duration in milliseconds as "0.4 s", "12 s" or "2 min 5 s". */
export function formatDuration(ms) {
  const seconds = ms / 1000;
  if (seconds < 10) return t("duration.seconds", { seconds: Math.max(0.1, Math.round(seconds * 10) / 10) });
  const whole = Math.round(seconds);
  if (whole < 60) return t("duration.seconds", { seconds: whole });
  return t("duration.minutes", { minutes: Math.floor(whole / 60), seconds: whole % 60 });
}
