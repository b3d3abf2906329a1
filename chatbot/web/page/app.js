// The page's start, its address (#/<session id>), and how its parts hang together.

import { ApiProblem, createApi } from "./api.js";
import { acceptDrops, createComposer } from "./composer.js";
import { createConversations } from "./conversation.js";
import { showToast } from "./dialogs.js";
import { announce, copyText, randomId } from "./dom.js";
import { language, languages, setLanguage, t } from "./i18n.js";
import { nameOf, titleFrom } from "./list_store.js";
import { createMediaUrls } from "./media_urls.js";
import { createBanners } from "./banners.js";
import { createActions } from "./conversation_actions.js";
import { createEmptyView, isGone, titleOfGone } from "./empty_view.js";
import { createModelHealth } from "./model_health.js";
import { createOutbox } from "./outbox.js";
import { buildShell } from "./shell.js";
import { listenForShortcuts } from "./shortcuts.js";
import { createModelSelect } from "./model_select.js";
import { createLateModule, importModule } from "./module_loader.js";
import { createSessionSettings } from "./session_settings.js";
import { createSidebar } from "./sidebar.js";
import { keys, personal, tabStorage } from "./storage.js";
import { arrange, runningReply } from "./store.js";
import { renderTray, unsentMessage } from "./unsent_messages.js";
import { retryFor, wordsFor } from "./words.js";

// A hidden tab closes its feeds: over HTTP/1.1 a browser has six connections to a service, and a seventh feed would stop
// all tabs. Over HTTP/2 they share one.
const protocol = performance.getEntriesByType("navigation")[0]?.nextHopProtocol ?? "";
const HIDDEN_MS = /^h[23]/.test(protocol) ? 600_000 : 3_000;
const NEW_KEY = "chatbot.new"; // in the tab's storage: the key that creates this tab's new conversation
const ARRIVING_MS = 20_000; // the feed shows an accepted message within moments; after that the history will

const api = createApi({ base: new URL("../../../", import.meta.url).href, readKey: () => keys.read() });
const mediaUrls = createMediaUrls(api);

const arriving = new Map(); // what the service has accepted and the feed has not shown yet
let newKey = null, isAskingKey = false, isPaused = false, isOffline = false, hiddenTimer = null, readVersion = 0;

const page = buildShell(document.body, {
  newConversation: startNew, changeKey: () => demandKey(null), toggleSidebar, toggleSettings, conversationMenu: (anchor) => actions.conversationMenu(anchor),
  help: showHelp, readOlder, languages, language, setLanguage,
});
const parts = {};
const actions = createActions({ api, mediaUrls, page: { currentId, mediaAddress, go, send, demandKey }, parts });
const renderEmpty = createEmptyView(page.empty, { startNew, send, reload: () => conversations.reload() });
const conversations = createConversations({ api, onChange: render, onReplyEnd, onProblem: demandKey });
const outbox = createOutbox({ api, storage: personal, onChange: () => { render(); sidebar.render(); }, onSession, onAccepted, onAuth: demandKey });
const sidebar = createSidebar(page, api, { currentId, onRemoved, hasUnsent: (id) => id !== currentId() && outbox.of(id).length > 0, onSessions: () => { renderHead(); markRead(); }, onProblem: demandKey, save: actions.saveExport });
const settings = createSessionSettings({ api, put: (session) => sidebar.put(session), onChange: () => renderHead() });
const modelSelect = createModelSelect({ api, onPick: pickModel });
const composer = createComposer({ form: page.form, api, modelSelect: modelSelect.element, onSend: send, onStop: actions.stop, mediaUrl: (file) => mediaUrls.of(mediaAddress(file)) });
let logView = null; // what shows messages, once there is one: it is a third of the page, and an empty page does not need it
const logModule = createLateModule("./log_view.js", { onLoaded: createLog, onFailed: () => renderBanners() });
let panel = null; // the panel of settings, once it was opened
const health = createModelHealth(api, () => {
  renderBanners();
  if (health.state === "available") modelSelect.load();
});
const renderBanners = createBanners(page.banners, () => ({ open: conversations.open, model: health.state, isOffline, isKeyMissing: isAskingKey === "later", isLogViewMissing: logModule.isMissing && !page.scroller.hidden }), {
  wake, loadLogView: logModule.load, startNew, reload: () => conversations.reload(), demandKey: () => demandKey(null), checkModel: health.check,
});
Object.assign(parts, { conversations, outbox, sidebar, composer });

function mediaAddress({ sha256 }) {
  const id = currentId();
  return `api/media/${sha256}${id ? `?session_id=${id}` : ""}`;
}

/* Where the page is */

/** The id of the open conversation; null: a new one. */
function currentId() {
  return /^#\/([0-9A-Za-z_-]+)$/.exec(location.hash)?.[1] ?? null;
}

function go(id, { replace = false } = {}) {
  const address = `#/${id ?? ""}`;
  if (replace) history.replaceState(null, "", address);
  else if (location.hash !== address) history.pushState(null, "", address);
  route();
}

function route() {
  const id = currentId();
  toggleSidebar(false);
  if (conversations.open?.id !== id) {
    readVersion = 0;
    page.scroller.setAttribute("aria-live", "off"); // a conversation that is opened is not news
    conversations.show(id);
    setTimeout(() => page.scroller.setAttribute("aria-live", "polite"), 1_000);
  }
  if (!page.panel.hidden) panel?.show(id);
  composer.show(id ?? "new");
  sidebar.render();
  render();
}

function startNew() {
  newKey = randomId();
  saveNewKey();
  go(null);
  composer.focus();
}

function saveNewKey() {
  tabStorage.setItem(NEW_KEY, newKey);
}

/* What is shown */

function createLog({ createLogView }) {
  logView = parts.logView = createLogView(page, {
    ...actions, copy: copyText,
    get can() {
      const canSay = !isGone(conversations.open);
      return { edit: canSay, regenerate: canSay, fork: canSay, continue: canSay };
    },
    continue: () => import("./continue_reply.js").then((it) => it.continueReply({ currentId, settings, limitOf: modelSelect.limitOf, send }), sayPartMissing),
    mediaUrl: (part) => mediaUrls.of(part.url ?? mediaAddress(part)),
  });
  render();
}

function render() {
  const id = currentId(), open = conversations.open, data = open?.data ?? null;
  for (const one of arriving.values()) if (data && one.message_id in data.messages) arriving.delete(one.id);
  const items = [...[...arriving.values()].filter((one) => one.session_id === id), ...outbox.of(id ?? newKey)];
  const { shown, waiting } = data ? arrange(data) : { shown: [], waiting: [] };
  let messages = shown;
  for (const item of items) { // an edit is shown where it will be
    const at = item.parent_id === undefined ? messages.length : messages.findIndex((one) => one.message_id === item.parent_id) + 1;
    messages = [...messages.slice(0, at), unsentMessage(item)];
  }
  const isEmpty = messages.length === 0;
  page.empty.hidden = !isEmpty;
  page.scroller.hidden = isEmpty;
  if (isEmpty) renderEmpty(id, open);
  if (!logView && !isEmpty && !logModule.isMissing) logModule.load();
  logView?.render(id ?? newKey, messages, { hasOlder: Boolean(data?.older), isOlderLoading: open?.isOlderLoading });
  renderTray(page.tray, waiting, { edit: actions.takeBack, remove: actions.removeQueued, leave: composer.focus });
  composer.setRunning(Boolean(data && runningReply(data)?.status === "streaming"));
  composer.setBlocked(isGone(open));
  renderHead();
  renderBanners();
  markRead();
}

function renderHead() {
  const id = currentId(), session = id && sidebar.session(id), { open } = conversations, isOver = id !== null && isGone(open);
  const name = id === null ? t("list.new") : nameOf(session) ?? open?.data?.session?.title ?? (isOver ? titleOfGone(open) : t("list.untitled"));
  if (page.title.textContent !== name) page.title.textContent = name;
  modelSelect.show((id === null ? settings.draft.model : session?.model) ?? null);
  page.moreButton.hidden = id === null || isOver;
  page.settingsButton.hidden = isOver;
  if (isOver && !page.panel.hidden) toggleSettings();
  page.keyButton.hidden = !keys.read();
  const unread = sidebar.unreadCount();
  document.title = `${unread ? `(${unread}) ` : ""}${name} · ${t("page.title")}`;
}

/** Tells the service that the open conversation was seen, if somebody can see it. */
async function markRead({ hasEnded = false } = {}) {
  const id = currentId(), data = conversations.open?.data;
  if (!data || document.visibilityState !== "visible" || !(hasEnded || sidebar.session(id)?.unread)) return;
  const version = Number(data.cursor.split(":")[0]);
  if (version <= readVersion) return;
  readVersion = version;
  try {
    sidebar.put(await api.call("POST", `api/sessions/${id}/read`, { body: { version } }));
  } catch (fault) {
    if (!(fault instanceof ApiProblem)) throw fault; // the mark stays, which does no harm
  }
}

/* What the user does */

function send(message, { parentId } = {}) {
  const id = currentId(), item = { id: randomId(), at: Date.now(), session_id: id, create: null, message };
  if (parentId !== undefined) Object.assign(item, { parent_id: parentId, on_busy: "interrupt" }); // the reply to the old text is not wanted
  if (id === null) {
    const known = outbox.of(newKey)[0]?.create; // the conversation is being made for an earlier message
    const text = typeof message === "string" ? message : message.find((one) => one.type === "text")?.text ?? "";
    item.create = known ?? { key: newKey, body: { ...settings.takeDraft(modelSelect.limitOf), ...(text ? { title: titleFrom(text) } : {}) } };
  }
  outbox.post(item);
  logView?.scrollToEnd();
  announce(t("composer.sent"));
}

function onSession(createKey, session) {
  sidebar.put(session);
  if (currentId() !== null || createKey !== newKey) return;
  conversations.show(session.session_id, { sessionId: session.session_id, order: [], messages: {}, cursor: `${session.version}:0`,
    older: null, stale: false, ended: null, session: { title: session.title, metadata: session.metadata } });
  logView?.rename(newKey, session.session_id);
  composer.rename("new", session.session_id);
  newKey = randomId();
  saveNewKey();
  go(session.session_id, { replace: true });
}

function onAccepted(item, accepted) {
  logView?.alias(accepted.user_message_id, item.id);
  arriving.set(item.id, { ...item, state: "sending", problem: null, session_id: accepted.session_id, message_id: accepted.user_message_id });
  setTimeout(() => arriving.delete(item.id) && render(), ARRIVING_MS);
}

async function readOlder() {
  try {
    page.scroller.setAttribute("aria-live", "off");
    await conversations.readOlder();
  } catch (fault) {
    if (!(fault instanceof ApiProblem)) throw fault;
    showToast(wordsFor(fault), retryFor(fault, readOlder));
  } finally {
    setTimeout(() => page.scroller.setAttribute("aria-live", "polite"), 1_000);
  }
}

async function pickModel(model) {
  const id = currentId();
  try {
    await settings.change(id, { model });
  } catch (fault) {
    if (!(fault instanceof ApiProblem)) throw fault;
    showToast(wordsFor(fault), retryFor(fault, () => pickModel(model)));
  }
  if (!page.panel.hidden) panel?.show(id);
}

function toggleSidebar(isOpen) {
  const wasOpen = page.app.dataset.sidebar === "open";
  page.app.dataset.sidebar = isOpen ? "open" : "closed";
  page.menuButton.setAttribute("aria-expanded", String(isOpen));
  page.main.inert = isOpen && page.menuButton.checkVisibility(); // a drawer, on a narrow screen
  if (isOpen) page.filter.focus();
  else if (wasOpen && page.sidebar.contains(document.activeElement)) page.menuButton.focus();
}

/** Closes what is open over the conversation, else stops the reply. Returns whether there was anything. */
function onEscape() {
  if (page.app.dataset.sidebar === "open") toggleSidebar(false);
  else if (page.panel.contains(document.activeElement)) toggleSettings();
  else return actions.stop();
  return true;
}

async function toggleSettings() {
  page.panel.hidden = !page.panel.hidden;
  page.settingsButton.setAttribute("aria-expanded", String(!page.panel.hidden));
  if (page.panel.hidden) {
    page.settingsButton.focus();
    return;
  }
  let createSettingsPanel;
  try {
    ({ createSettingsPanel } = await importModule("./settings_panel.js"));
  } catch {
    page.panel.hidden = true;
    page.settingsButton.setAttribute("aria-expanded", "false");
    sayPartMissing(toggleSettings);
    return;
  }
  panel ??= createSettingsPanel({ panel: page.panel, api, settings, onClose: toggleSettings });
  await panel.show(currentId());
  panel.focus();
}

function sayPartMissing(again) {
  showToast(t("page.part_missing"), { action: { label: t("retry"), onclick: again } });
}

/* What happens */

function onReplyEnd(message) {
  const key = { complete: "ended.complete", cancelled: "ended.cancelled" }[message.status] ?? "ended.failed";
  announce(t(key));
  markRead({ hasEnded: true }); // before the list knows, or it stays unread when the user leaves at once
  if (message.status === "failed") health.check();
  pauseWhenHidden();
}

function onRemoved(id) {
  conversations.forget(id);
  if (currentId() === id && sidebar.isDeleting(id)) startNew();
}

async function showHelp() {
  try {
    (await importModule("./help_dialog.js")).showHelp();
  } catch {
    sayPartMissing(showHelp);
  }
}

/** Asks for a key once, however many requests were refused. */
async function demandKey(problem) {
  if (isAskingKey === true) return;
  if (isAskingKey === "later" && problem) return;
  isAskingKey = true;
  const words = problem && keys.read() ? t("key.refused") : null;
  let askKey;
  try {
    ({ askKey } = await importModule("./key_dialog.js"));
  } catch {
    isAskingKey = "later"; // a banner has a button for it
    renderBanners();
    return;
  }
  const given = await askKey({ words, check: async (key) => {
    try {
      await createApi({ base: api.base, readKey: () => key }).call("GET", "api/sessions?limit=1");
      return null;
    } catch (fault) {
      return fault.status === 401 ? t("key.wrong") : wordsFor(fault);
    }
  } });
  isAskingKey = given ? false : keys.read() && !problem ? false : "later";
  if (given) {
    keys.save(given.key, given.isRemembered);
    mediaUrls.clear();
    conversations.clear();
    sidebar.clear();
    sidebar.reload();
    modelSelect.load();
    conversations.reload();
    outbox.retryAll();
  }
  renderBanners();
}

/** Whether the service cannot be reached, where the browser says that there is no network: it may be on this machine. */
async function checkNetwork() {
  isOffline = navigator.onLine === false && !(await api.isReachable());
  renderBanners();
}

function wake() {
  conversations.wake();
  sidebar.wake();
  outbox.retryAll();
  logModule.load();
  if (health.state !== "available") health.check();
}

/** Closes the feeds of a tab that nobody looks at, once no reply is being written in it. */
function pauseWhenHidden() {
  clearTimeout(hiddenTimer);
  if (document.visibilityState !== "hidden" || isPaused) return;
  hiddenTimer = setTimeout(() => {
    if (conversations.open && !conversations.pause()) return; // asked for again when the reply has ended
    sidebar.pause();
    isPaused = true;
  }, HIDDEN_MS);
}

function onVisibility() {
  pauseWhenHidden();
  if (document.visibilityState === "hidden") return;
  if (isPaused) {
    isPaused = false;
    conversations.resume();
    sidebar.resume();
  } else wake();
  markRead();
}

acceptDrops(page.main, (files) => composer.addFiles(files));
listenForShortcuts({
  new: startNew, search: () => { toggleSidebar(page.menuButton.checkVisibility()); page.filter.focus(); page.filter.select(); }, focus: () => composer.focus(),
  stop: onEscape, copyCode: actions.copyCode, help: showHelp, move: (offset) => logView?.focusMessage(offset),
});
addEventListener("popstate", route);
addEventListener("hashchange", route);
addEventListener("pageshow", (event) => event.persisted && wake());
addEventListener("online", () => { checkNetwork(); wake(); });
addEventListener("offline", checkNetwork);
document.addEventListener("visibilitychange", onVisibility);

newKey = tabStorage.getItem(NEW_KEY) ?? outbox.newConversations()[0] ?? randomId();
saveNewKey();
sidebar.start();
route();
outbox.start();
health.check();
modelSelect.load();
if (navigator.onLine === false) checkNetwork();
if (!matchMedia("(pointer: coarse)").matches) composer.focus();
(globalThis.requestIdleCallback ?? setTimeout)(() => {
  logModule.load();
  importModule("./settings_panel.js").catch(() => {}); // if it fails, what needs it says so
});
