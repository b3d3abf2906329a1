// The list of conversations: groups by day, unread marks, the filter, and what can be done with one.

import { ApiProblem, isTransient } from "./api.js";
import { openMenu, askText, showToast } from "./dialogs.js";
import { h, fill, iconButton } from "./dom.js";
import { openFeed } from "./feed.js";
import { t, formatDate } from "./i18n.js";
import { EMPTY_LIST, grouped, nameOf, previewOf, reduceList, titleFrom, withPage, withSession, withoutSession } from "./list_store.js";
import { browserStorage } from "./storage.js";
import { retryFor, wordsFor } from "./words.js";

const PAGE = 40;
const PINNED_MAX = 100;
const FILTER_MS = 200;
const UNDO_MS = 8_000;
const LATE_MS = 5_000; // another tab deletes first, if it is still open
const RETRY_MS = [1_000, 2_000, 5_000, 10_000];
const DELETIONS = "chatbot.deletions";

/**
 * `elements`: {list, filter, more, status}. `callbacks`: `currentId()`, `onRemoved(id)` (its conversation is gone or is
 * about to be), `hasUnsent(id)`, `onSessions()` (any session changed), `onProblem(problem)` (a key is needed), `save(id, format)`.
 */
export function createSidebar({ list, filter, more, status }, api, callbacks) {
  let known = EMPTY_LIST, found = null, feed = null, load = "loading", problem = null, timer = null, attempt = 0, reading = 0;
  const deleting = new Map(); // id -> when it is deleted, in ms: hidden until then
  const items = new Map(); // id -> its li

  async function read(isFirst = true) {
    const number = ++reading, words = filter.value.trim();
    clearTimeout(timer);
    load = "loading";
    try {
      const query = new URLSearchParams({ limit: String(PAGE), preview: "true" });
      const target = words ? found : known;
      if (words) query.set("title", words);
      if (!isFirst && target?.next) query.set("cursor", target.next);
      const isWhole = isFirst && !words; // pinned ones are shown first, however old they are
      const [page, pinned] = await Promise.all([api.call("GET", `api/sessions?${query}`),
        isWhole ? api.call("GET", `api/sessions?limit=${PINNED_MAX}&preview=true&pinned=true`) : { sessions: [] }]);
      if (number !== reading) return;
      if (words) found = withPage(found ?? EMPTY_LIST, page, isFirst);
      else known = pinned.sessions.reduce(withSession, withPage(known, page, isFirst));
      load = "loaded";
      problem = null;
      attempt = 0;
      if (isFirst && !words) follow(page.cursor ?? null);
      if (page.sessions.length === 0 && page.next) return read(false); // a short page is not the last
      callbacks.onSessions();
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      if (number !== reading) return; // another filter was typed meanwhile
      load = "failed";
      problem = fault;
      if (fault.status === 401) callbacks.onProblem(fault);
      else if (isTransient(fault)) {
        const waitMs = (fault.retryAfter ?? 0) * 1000 || RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)];
        attempt += 1;
        timer = setTimeout(() => read(isFirst), waitMs);
      }
    }
    render();
  }

  function follow(cursor) {
    feed?.close();
    feed = openFeed(api, "api/sessions/changes", {
      cursor,
      onFrame: (frame) => {
        const before = known;
        known = reduceList(known, frame);
        if (frame.type === "gone") callbacks.onRemoved(frame.session_id);
        if (found && frame.type === "session" && frame.session.session_id in found.sessions) found = withSession(found, frame.session);
        if (found && frame.type === "gone") found = withoutSession(found, frame.session_id);
        if (known.stale) read();
        if (known !== before) {
          callbacks.onSessions();
          render();
        }
      },
      onState: (state, detail) => detail.problem?.status === 401 && callbacks.onProblem(detail.problem),
    });
  }

  function render() {
    const shown = filter.value.trim() ? found ?? matching(filter.value.trim()) : known;
    const groups = grouped(shown, new Set(deleting.keys()), Date.now());
    const wanted = new Set();
    const sections = groups.map(({ name, sessions }) => {
      const entries = sessions.map((session) => {
        wanted.add(session.session_id);
        return update(session);
      });
      return { name, entries };
    });
    for (const id of items.keys()) if (!wanted.has(id)) items.delete(id);
    arrange(sections);
    more.hidden = !shown.next;
    more.disabled = load === "loading";
    status.textContent = stateWords(groups.length > 0);
    status.hidden = !status.textContent;
  }

  function matching(words) {
    const low = words.toLowerCase();
    const sessions = Object.values(known.sessions).filter((one) => nameOf(one)?.toLowerCase().includes(low));
    return { ...EMPTY_LIST, sessions: Object.fromEntries(sessions.map((one) => [one.session_id, one])) };
  }

  function stateWords(hasAny) {
    if (load === "failed") return wordsFor(problem);
    if (hasAny) return "";
    if (load === "loading") return t("list.loading");
    return filter.value.trim() ? t("list.none_found") : t("list.empty");
  }

  /** Moves only what is not in its place, so that the focus and the scrolling stay. */
  function arrange(sections) {
    const before = new Map([...list.children].map((one) => [one.dataset.group, one]));
    let place = null;
    for (const { name, entries } of sections) {
      const section = before.get(name) ?? h("section", { class: "session-group", dataset: { group: name }, "aria-labelledby": `group-${name}` },
        h("h2", { id: `group-${name}` }, t(`list.${name}`)), h("ul", { role: "list" }));
      before.delete(name);
      const next = place ? place.nextElementSibling : list.firstElementChild;
      if (next !== section) list.insertBefore(section, next);
      place = section;
      const holder = section.lastElementChild;
      entries.forEach((entry, index) => holder.children[index] !== entry && holder.insertBefore(entry, holder.children[index] ?? null));
      while (holder.children.length > entries.length) holder.lastElementChild.remove();
    }
    for (const one of before.values()) one.remove();
  }

  function update(session) {
    const id = session.session_id;
    let item = items.get(id);
    if (!item) {
      item = h("li", { class: "session", dataset: { sessionId: id } },
        h("a", { href: `#/${id}`, class: "session-link", onkeydown: (event) => onKey(event, id) }),
        iconButton("more", "", (event) => menu(event.currentTarget, id), { "aria-haspopup": "menu", "aria-expanded": "false" }));
      items.set(id, item);
    }
    const isCurrent = callbacks.currentId() === id, name = nameOf(session) ?? t("list.untitled");
    const isUnread = Boolean(session.unread) && !isCurrent, isReplying = session.status === "replying", isUnsent = callbacks.hasUnsent(id);
    const state = JSON.stringify([name, session.preview?.text, session.activity, isUnread, isReplying, isCurrent, isUnsent, session.pinned]);
    if (item.dataset.state === state) return item;
    item.dataset.state = state;
    const [link, button] = item.children;
    for (const [key, isSet] of Object.entries({ unread: isUnread, replying: isReplying, current: isCurrent, pinned: session.pinned })) {
      if (isSet) item.dataset[key] = "";
      else delete item.dataset[key];
    }
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    const marks = isReplying ? t("list.replying") : isUnread ? t("list.unread") : "";
    fill(link, h("span", { class: "session-title", dir: "auto" }, name),
      h("time", { datetime: session.activity }, formatDate(session.activity)),
      h("span", { class: "session-preview", dir: "auto" }, isUnsent ? t("list.unsent") : session.title ? previewOf(session) : ""),
      marks ? h("span", { class: "visually-hidden" }, marks) : null);
    const label = t("list.actions", { title: name });
    button.setAttribute("aria-label", label);
    button.title = label;
    return item;
  }

  function onKey(event, id) {
    const links = [...list.querySelectorAll(".session-link")], at = links.indexOf(event.currentTarget);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (next !== undefined) links[Math.max(0, Math.min(links.length - 1, next))].focus();
    else if (event.key === "F2") rename(id);
    else if (event.key === "Delete") remove(id);
    else return;
    event.preventDefault();
  }

  function menu(anchor, id) {
    const session = sessionOf(id);
    openMenu(anchor, [
      { label: session?.pinned ? t("list.unpin") : t("list.pin"), icon: "pin", onclick: () => change(id, { pinned: !session?.pinned }) },
      { label: t("list.rename"), icon: "edit", onclick: () => rename(id) },
      { label: t("list.export_markdown"), icon: "download", onclick: () => callbacks.save(id, "markdown") },
      { label: t("list.export_json"), icon: "download", onclick: () => callbacks.save(id, "json") },
      { label: t("list.delete"), icon: "trash", isDanger: true, onclick: () => remove(id) },
    ]);
  }

  function sessionOf(id) {
    return known.sessions[id] ?? found?.sessions[id] ?? null;
  }

  function put(session) {
    known = withSession(known, session);
    if (found && session.session_id in found.sessions) found = withSession(found, session);
    callbacks.onSessions();
    render();
  }

  /** Changes a session; what was there returns if the service refuses. */
  async function change(id, body) {
    const before = sessionOf(id);
    if (before) put({ ...before, ...body });
    try {
      put(await api.call("PATCH", `api/sessions/${id}`, { body }));
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      if (before) put(before);
      showToast(wordsFor(fault), retryFor(fault, () => change(id, body)));
    }
  }

  async function rename(id) {
    const title = await askText({ title: t("rename.title"), label: t("rename.label"), value: nameOf(sessionOf(id)) ?? "", submit: t("rename.save") });
    if (title !== null) change(id, { title: title || null });
  }

  /** [[id, when it is deleted]] of all tabs. */
  function readDeletions() {
    try {
      return JSON.parse(browserStorage.getItem(DELETIONS)) ?? [];
    } catch {
      return []; // damaged: nothing is deleted that nobody confirmed
    }
  }

  function saveDeletions() {
    browserStorage.setItem(DELETIONS, JSON.stringify([...deleting]));
  }

  /** Hides a conversation at once and deletes it when the notice with Undo has ended. */
  function remove(id) {
    if (deleting.has(id)) return;
    const links = [...list.querySelectorAll(".session-link")];
    const at = links.findIndex((one) => one.closest("li").dataset.sessionId === id);
    const hadFocus = at >= 0 && links[at].closest("li").contains(document.activeElement);
    const name = nameOf(sessionOf(id)) ?? t("list.untitled");
    const wasOpen = callbacks.currentId() === id;
    const undo = () => {
      restore(id);
      if (wasOpen) location.hash = `#/${id}`; // where the user was
    };
    showToast(t("list.deleted", { title: titleFrom(name) || name }), {
      ms: UNDO_MS,
      action: { label: t("list.undo"), onclick: undo },
      onEnd: (isUndone) => !isUndone && deleting.has(id) && erase(id),
    });
    deleting.set(id, Date.now() + UNDO_MS);
    saveDeletions();
    render();
    if (hadFocus) (links[at + 1] ?? links[at - 1] ?? filter).focus();
    callbacks.onRemoved(id);
  }

  function restore(id) {
    deleting.delete(id);
    saveDeletions();
    render();
    items.get(id)?.querySelector("a").focus();
  }

  async function erase(id, { keepalive = false } = {}) {
    try {
      await api.call("DELETE", `api/sessions/${id}`, { keepalive });
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      if (fault.status !== 404) {
        restore(id);
        showToast(wordsFor(fault), retryFor(fault, () => remove(id)));
        return;
      }
    }
    known = withoutSession(known, id);
    if (found) found = withoutSession(found, id);
    deleting.delete(id);
    saveDeletions();
    render();
  }

  addEventListener("pagehide", () => {
    for (const id of deleting.keys()) erase(id, { keepalive: true }).catch(() => {}); // kept in DELETIONS if it fails
  });

  /** Deletes what an earlier page was about to delete when it was closed; in another tab it can still be undone. */
  function finishDeletions() {
    for (const [id, at] of readDeletions()) {
      setTimeout(() => {
        const isWanted = readDeletions().some(([one]) => one === id);
        if (!isWanted || deleting.has(id)) return;
        deleting.set(id, at);
        erase(id).catch(() => {});
      }, Math.max(0, at + LATE_MS - Date.now()));
    }
  }

  let filterTimer = null;
  filter.addEventListener("input", () => {
    found = null;
    clearTimeout(filterTimer);
    filterTimer = setTimeout(() => (filter.value.trim() ? read() : render()), FILTER_MS);
    render();
  });
  filter.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") list.querySelector(".session-link")?.focus();
    else if (event.key === "Escape" && filter.value) {
      filter.value = "";
      filter.dispatchEvent(new Event("input"));
    } else return;
    event.preventDefault();
  });
  more.addEventListener("click", () => read(false));
  new IntersectionObserver(([one]) => one.isIntersecting && !more.hidden && load === "loaded" && read(false)).observe(more);

  return {
    start() {
      finishDeletions();
      return read();
    },
    reload: () => read(),
    render,
    session: sessionOf,
    titles: () => Object.values(known.sessions).map((one) => one.title),
    put,
    rename,
    change,
    remove,
    isDeleting: (id) => deleting.has(id),
    unreadCount: () => Object.values(known.sessions).filter((one) => one.unread && one.session_id !== callbacks.currentId()).length,
    wake: () => (load === "failed" ? read() : feed?.wake()),
    pause: () => { feed?.close(); },
    resume: () => read(),
    clear() {
      feed?.close();
      known = EMPTY_LIST;
      found = null;
      render();
    },
  };
}
