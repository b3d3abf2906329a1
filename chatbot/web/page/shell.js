// The frame of the page: the list of conversations, the open one, the composer, and what is shown over them.

import { h, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";

/** Builds the page's frame in `body`; returns the elements that the modules fill. */
export function buildShell(body, actions) {
  const list = h("div", { id: "sessions" });
  const filter = h("input", { type: "search", "aria-label": t("list.filter"), placeholder: t("list.filter"), autocomplete: "off", spellcheck: "false" });
  const more = h("button", { type: "button", class: "button quiet", hidden: true }, t("list.more"));
  const status = h("p", { class: "session-status hint", role: "status", hidden: true });
  const keyButton = iconButton("key", t("key.change"), actions.changeKey, { hidden: true });
  const sidebar = h("nav", { class: "sidebar", id: "sidebar", "aria-label": t("list.label") },
    h("div", { class: "sidebar-head" }, h("a", { class: "brand", href: "#/" }, t("page.title")),
      iconButton("close", t("list.close"), () => actions.toggleSidebar(false), { class: "icon-button close-sidebar" })),
    h("div", { class: "sidebar-actions" },
      h("button", { type: "button", class: "button primary", onclick: actions.newConversation }, icon("plus"), t("list.new")),
      h("label", { class: "search" }, icon("search"), filter)),
    h("div", { class: "session-list" }, status, list, more),
    h("div", { class: "sidebar-foot" }, themeField(), languageField(actions),
      iconButton("help", t("help.title"), actions.help), keyButton));
  const menuButton = iconButton("menu", t("list.open"), () => actions.toggleSidebar(true), { class: "icon-button menu-button", "aria-expanded": "false", "aria-controls": "sidebar" });
  const title = h("h1", { tabindex: "-1", dir: "auto" });
  const settingsButton = iconButton("settings", t("settings.title"), actions.toggleSettings, { "aria-expanded": "false", "aria-controls": "settings" });
  const moreButton = iconButton("more", t("conversation.actions"), (event) => actions.conversationMenu(event.currentTarget), { "aria-haspopup": "menu", "aria-expanded": "false" });
  const banners = h("div", { class: "banners", role: "status" });
  const older = h("button", { type: "button", class: "button quiet older", hidden: true, onclick: actions.readOlder }, t("log.older"));
  const log = h("div", { class: "log-inner" });
  const scroller = h("div", { class: "log", id: "log", role: "log", tabindex: "0", "aria-label": t("log.label") }, older, log);
  const empty = h("div", { class: "empty", hidden: true });
  const toEnd = h("button", { type: "button", class: "button to-end", hidden: true }, icon("down"), t("log.to_end"));
  const tray = h("section", { class: "tray", "aria-label": t("queue.label"), hidden: true });
  const form = h("form", { class: "composer", "aria-label": t("composer.label") });
  const dock = h("div", { class: "dock" }, toEnd, tray, form);
  const topbar = h("header", { class: "topbar" }, menuButton, h("div", { class: "topbar-title" }, title),
    h("div", { class: "topbar-actions" }, settingsButton, moreButton));
  const main = h("main", { class: "conversation" }, topbar, banners, scroller, empty, dock);
  const panel = h("aside", { class: "panel", id: "settings", "aria-labelledby": "settings-title", hidden: true });
  const scrim = h("div", { class: "scrim", onclick: () => actions.toggleSidebar(false) });
  const app = h("div", { class: "app" }, sidebar, scrim, main, panel);
  body.append(
    h("a", { class: "skip-link", href: "#log", onclick: (event) => { event.preventDefault(); scroller.focus(); } }, t("page.skip")),
    app, h("div", { id: "toasts", class: "toasts", role: "status" }),
    h("div", { id: "announcer", class: "visually-hidden", role: "status" }));
  scroller.addEventListener("scroll", () => topbar.classList.toggle("scrolled", scroller.scrollTop > 0), { passive: true });
  return { app, sidebar, list, filter, more, status, keyButton, menuButton, title, settingsButton, moreButton, banners, older, log,
    scroller, empty, toEnd, tray, form, panel, main };
}

function themeField() {
  const root = document.documentElement, current = root.dataset.theme ?? "";
  const select = h("select", { "aria-label": t("page.theme"), onchange: () => {
    if (select.value) root.dataset.theme = select.value;
    else delete root.dataset.theme;
    try {
      if (select.value) localStorage.setItem("chatbot.theme", select.value);
      else localStorage.removeItem("chatbot.theme");
    } catch {
      // storage is blocked: the choice lasts as long as the page
    }
  } }, ["", "light", "dark"].map((one) => h("option", { value: one, selected: one === current }, t(`theme.${one || "system"}`))));
  return select;
}

function languageField({ languages, language, setLanguage }) {
  const select = h("select", { "aria-label": t("page.language"), onchange: () => setLanguage(select.value) },
    languages.map((one) => h("option", { value: one.code, lang: one.code, selected: one.code === language }, one.name)));
  return select;
}
