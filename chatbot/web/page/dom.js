// Small helpers that build the page's elements. Texts become text nodes, never markup.

import { icon } from "./icons.js";

export { icon };

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "open", "multiple", "indeterminate"]);

/**
 * An element. `attributes`: `class`, `dataset` ({}), `on<event>` functions, DOM properties (`value`, `checked`,
 * `disabled`, `hidden` ...), else attributes: true sets one without a value; null, undefined and false leave it out.
 * Children: nodes and texts; null and false are skipped, lists flattened.
 */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Replaces all children. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** A button that shows an icon only; `label` is its name and its tooltip. */
export function iconButton(name, label, onclick, attributes = {}) {
  const named = { type: "button", class: "icon-button", "aria-label": label, title: label };
  return h("button", { ...named, ...attributes, onclick }, icon(name));
}

/** Says `words` to a screen reader. The region is mounted from the start: one that is added with its text is not read. */
export function announce(words) {
  const region = document.getElementById("announcer");
  region.textContent = "";
  setTimeout(() => { region.textContent = words; }, 50); // an equal text would not be read again
}

/** A random identifier. crypto.randomUUID exists only on https and localhost. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (one) => one.toString(16).padStart(2, "0")).join("");
}

/** Puts `text` on the clipboard; returns whether that worked. The modern way exists only on https and localhost. */
export async function copyText(text) {
  if (navigator.clipboard?.writeText) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not permitted: the old way may be
    }
  }
  const area = h("textarea", { class: "visually-hidden", readonly: true, value: text });
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const worked = document.execCommand("copy");
  area.remove();
  before?.focus();
  return worked;
}
