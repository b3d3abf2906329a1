// Formulas: TeX becomes MathML, which the browser draws. Temml is loaded with the first formula.

import { h } from "./dom.js";
import { t } from "./i18n.js";

const MAX_LENGTH = 10_000;
const TITLE_MAX = 500;
const SIZE_MAX_EM = 40; // of \rule and the like
const EXPANSIONS_MAX = 500; // of macros
const STYLE_SHEETS = ["../vendor/temml/Temml-Local.css", "math.css"];
let loading = null;

function load() {
  loading ??= import("../vendor/temml/temml.min.js").then(
    ({ default: temml }) => {
      for (const path of STYLE_SHEETS) {
        document.head.append(h("link", { rel: "stylesheet", href: new URL(path, import.meta.url).href }));
      }
      return temml;
    },
    () => {
      loading = null; // the network failed: the next formula tries again
      return null;
    },
  );
  return loading;
}

/** An element that shows `tex` as it was written, then as a formula. `open`: its end is not there yet. */
export function formulaElement(tex, display, open) {
  const source = h("code", { class: "formula-source", dir: "ltr" }, tex);
  const title = tex.slice(0, TITLE_MAX);
  const scrolling = { tabindex: "0", role: "group", "aria-label": t("message.formula") };
  const element = display
    ? h("div", { class: "formula formula-display", title, ...scrolling }, source)
    : h("span", { class: "formula", title }, source);
  if (!open && tex.length <= MAX_LENGTH) void draw(element, tex, display);
  return element;
}

async function draw(element, tex, display) {
  const temml = await load();
  if (!temml) return;
  try {
    element.replaceChildren(toMathML(temml, tex, display));
  } catch (fault) {
    element.title = fault.message; // the source stays: it is no TeX that Temml knows, or too deep
  }
}

function toMathML(temml, tex, display) {
  const bounds = { maxSize: [SIZE_MAX_EM, SIZE_MAX_EM], maxExpand: EXPANSIONS_MAX };
  const tree = temml.__renderToMathMLTree(tex, { displayMode: display, throwOnError: true, trust: false, ...bounds });
  moveStyles(tree);
  return tree.toNode();
}

/** Styles as properties: the page's policy refuses them as attributes. */
function moveStyles(node) {
  const style = node.attributes?.style;
  if (style) {
    delete node.attributes.style;
    for (const one of style.split(";")) {
      const [name, value] = one.split(":").map((piece) => piece.trim());
      if (value) node.style[name.replace(/-./g, (found) => found[1].toUpperCase())] = value;
    }
  }
  node.children?.forEach(moveStyles);
}
