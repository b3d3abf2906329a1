// The texts of messages, in the language in use. They come with the modules that show messages.

import { addTexts, language } from "./i18n.js";

const LOADERS = {
  en: () => import("./texts/later/en.js"),
  ko: () => import("./texts/later/ko.js"),
};

addTexts((await LOADERS[language]()).default);
