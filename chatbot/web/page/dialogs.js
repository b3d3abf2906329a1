// Dialogs, menus and short notices. Native dialog elements hold the focus and give it back.

import { h, icon } from "./dom.js";
import { t } from "./i18n.js";

/** Shows a modal dialog until it is closed. `build(close)` returns its content. Resolves to what `close` was given. */
export function openDialog({ title, build, className = "" }) {
  return new Promise((resolve) => {
    const heading = h("h2", { id: "dialog-title", tabindex: "-1" }, title);
    const dialog = h("dialog", { class: `dialog ${className}`, "aria-labelledby": "dialog-title" });
    const focused = document.activeElement;
    let result = null;
    const close = (value) => { result = value ?? null; dialog.close(); };
    dialog.append(heading, build(close));
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (focused?.isConnected) focused.focus();
      resolve(result);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // the backdrop
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Asks for one line of text; resolves to it, or to null. */
export function askText({ title, label, value = "", submit, maxlength = 200 }) {
  return openDialog({ title, build: (close) => {
    const input = h("input", { type: "text", id: "dialog-input", value, maxlength: String(maxlength), autofocus: true, autocomplete: "off" });
    queueMicrotask(() => input.select());
    return h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); close(input.value.trim()); } },
      h("label", { for: "dialog-input" }, label), input, buttons(close, submit));
  } });
}

function buttons(close, submit) {
  return h("div", { class: "dialog-buttons" },
    h("button", { type: "button", class: "button", onclick: () => close(null) }, t("dialog.cancel")),
    h("button", { type: "submit", class: "button primary" }, submit));
}

let openedMenu = null;

/**
 * Shows a menu at `anchor`. `items`: [{label, icon, onclick, isDanger}]. Arrow keys move, Escape closes it and returns
 * the focus.
 */
export function openMenu(anchor, items) {
  openedMenu?.();
  const entries = items.map((one) => h("button", { type: "button", role: "menuitem", tabindex: "-1",
    class: one.isDanger ? "menu-item danger" : "menu-item", onclick: () => { close(); one.onclick(); } }, icon(one.icon), one.label));
  const menu = h("div", { class: "menu", role: "menu", "aria-label": anchor.getAttribute("aria-label") ?? "" }, entries);
  (anchor.closest("nav, main") ?? document.body).append(menu); // in its landmark: the other one may be inert
  const at = anchor.getBoundingClientRect(), height = menu.offsetHeight, width = menu.offsetWidth;
  menu.style.top = `${at.bottom + height > innerHeight ? Math.max(4, at.top - height) : at.bottom}px`;
  menu.style.left = `${Math.max(4, Math.min(at.right - width, innerWidth - width - 4))}px`;
  anchor.setAttribute("aria-expanded", "true");

  function close() {
    if (openedMenu !== close) return;
    openedMenu = null;
    menu.remove();
    anchor.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside, true);
    if (anchor.isConnected) anchor.focus();
  }
  function outside(event) {
    if (!menu.contains(event.target)) close();
  }
  menu.addEventListener("keydown", (event) => {
    const index = entries.indexOf(document.activeElement), count = entries.length;
    const next = { ArrowDown: (index + 1) % count, ArrowUp: (index + count - 1) % count, Home: 0, End: count - 1 }[event.key];
    if (next !== undefined) entries[next].focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.addEventListener("pointerdown", outside, true);
  openedMenu = close;
  entries[0].focus();
}

/** A notice with an optional action, for `ms`; returns a function that removes it. Focus or pointer on it holds it. */
export function showToast(words, { action = null, ms = 6000, onEnd = () => {} } = {}) {
  const region = document.getElementById("toasts");
  let timer = null, isOver = false;
  const end = (isUsed) => {
    if (isOver) return;
    isOver = true;
    clearTimeout(timer);
    toast.remove();
    onEnd(isUsed);
  };
  const button = action && h("button", { type: "button", class: "button", onclick: () => { end(true); action.onclick(); } }, action.label);
  const toast = h("div", { class: "toast" }, h("span", {}, words), button);
  const wait = () => { clearTimeout(timer); timer = setTimeout(() => end(false), ms); };
  const hold = () => clearTimeout(timer);
  toast.addEventListener("pointerenter", hold);
  toast.addEventListener("pointerleave", wait);
  toast.addEventListener("focusin", hold);
  toast.addEventListener("focusout", wait);
  region.append(toast);
  wait();
  return () => end(false);
}
