// What can be done with messages and conversations: each asks the service, and says in words if that did not work.

import { ApiProblem } from "./api.js";
import { openDialog, openMenu, showToast } from "./dialogs.js";
import { copyText, h, randomId } from "./dom.js";
import { t } from "./i18n.js";
import { lastCodeBlock } from "./last_code_block.js";
import { nameOf, titleOfFork } from "./list_store.js";
import { runningReply } from "./store.js";
import { unsentMessage } from "./unsent_messages.js";
import { retryFor, wordsFor } from "./words.js";

/**
 * `page`: {currentId(), mediaAddress(part), go(id), send(message, {parentId}), demandKey(problem)}; the others are the
 * page's parts of the same names.
 */
export function createActions({ api, mediaUrls, page, parts }) {
  const { currentId, mediaAddress, go, send, demandKey } = page;

  function stop() {
    const id = currentId(), reply = parts.conversations.open?.data && runningReply(parts.conversations.open.data);
    if (!reply) return false;
    api.callOnce(`api/sessions/${id}/cancel`, { reply_id: reply.message_id }, randomId()).catch((fault) => showToast(wordsFor(fault), retryFor(fault, stop)));
    return true;
  }

  async function act(path, body, again) {
    try {
      return await api.callOnce(`api/sessions/${currentId()}/${path}`, body, randomId(), { headers: path === "regenerate" ? { Prefer: "respond-async" } : {} });
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      if (fault.status === 401) demandKey(fault);
      else showToast(wordsFor(fault), retryFor(fault, again));
      return null;
    }
  }

  function regenerate(message) {
    parts.logView?.scrollToEnd();
    return act("regenerate", { message_id: message.message_id }, () => regenerate(message));
  }

  function retry(message) {
    if (message.status === "unsent") parts.outbox.retry(message.message_id);
    else regenerate(message);
  }

  function discard(message) {
    const item = parts.outbox.discard(message.message_id);
    if (item) parts.composer.restore(unsentMessage(item));
  }

  function edit(message) {
    const files = message.parts.filter((one) => one.type === "media").map(({ sha256, name, media_type }) => ({ type: "media", sha256, name, media_type }));
    parts.logView.edit(message, message.content, (text) => {
      send(files.length ? [{ type: "text", text }, ...files] : text, { parentId: message.parent_id });
    });
  }

  async function fork(message) {
    const session = await act("fork", { message_id: message.message_id }, () => fork(message));
    if (!session) return;
    parts.sidebar.put(session);
    if (session.title) parts.sidebar.change(session.session_id, { title: titleOfFork(session.title, parts.sidebar.titles()) });
    go(session.session_id);
    showToast(t("fork.done"));
  }

  function selectSibling(message, siblingId) {
    return act("branch", { message_id: siblingId }, () => selectSibling(message, siblingId));
  }

  /** Takes a queued message out; returns whether that worked: its reply may have started just now. */
  async function removeQueued({ message }) {
    try {
      await api.call("DELETE", `api/sessions/${currentId()}/messages/${message.message_id}`);
      return true;
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      if (fault.status === 404) return true;
      showToast(wordsFor(fault));
      return false;
    }
  }

  /** Takes a queued message back into the composer. */
  async function takeBack(turn) {
    if (await removeQueued(turn)) parts.composer.restore(turn.message);
  }

  /** The name of the function that was called by `callId`, in the open conversation; undefined if it is not there. */
  function callName(callId) {
    const messages = Object.values(parts.conversations.open?.data?.messages ?? {});
    return messages.flatMap((one) => one.parts).find((one) => one.type === "tool_call" && one.call_id === callId)?.name;
  }

  async function openMedia(part) {
    const url = await mediaUrls.of(part.url ?? mediaAddress(part)), name = part.name ?? t("image.untitled");
    openDialog({ title: name, className: "image-dialog", build: (close) => h("div", {}, h("img", { src: url, alt: name }),
      h("div", { class: "dialog-buttons" }, h("a", { class: "button", href: url, download: name }, t("image.save")),
        h("button", { type: "button", class: "button primary", autofocus: true, onclick: () => close(null) }, t("dialog.close")))) });
  }

  async function saveExport(id, format) {
    try {
      const response = await api.open("GET", `api/sessions/${id}/export?format=${format}`);
      const name = (nameOf(parts.sidebar.session(id)) ?? id).replace(/[\\/:*?"<>|\n]+/g, " ").trim().slice(0, 80);
      const url = URL.createObjectURL(await response.blob());
      h("a", { href: url, download: `${name}.${format === "json" ? "json" : "md"}` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      showToast(wordsFor(fault), retryFor(fault, () => saveExport(id, format)));
    }
  }

  function conversationMenu(anchor) {
    const id = currentId();
    openMenu(anchor, [
      { label: t("list.rename"), icon: "edit", onclick: () => parts.sidebar.rename(id) },
      { label: t("list.export_markdown"), icon: "download", onclick: () => saveExport(id, "markdown") },
      { label: t("list.export_json"), icon: "download", onclick: () => saveExport(id, "json") },
      { label: t("list.delete"), icon: "trash", isDanger: true, onclick: () => parts.sidebar.remove(id) },
    ]);
  }

  async function copyCode() {
    const { data } = parts.conversations.open ?? {};
    const replies = data ? data.order.map((id) => data.messages[id]).filter((one) => one.role === "assistant") : [];
    const texts = replies.map((one) => one.parts.filter((part) => part.type === "text").map((part) => part.text).join("\n\n"));
    const code = texts.map(lastCodeBlock).filter((one) => one !== null).at(-1);
    if (code === undefined) showToast(t("code.none"));
    else showToast((await copyText(code)) ? t("code.copied_last") : t("copy.failed"));
  }

  return { stop, regenerate, retry, discard, edit, fork, selectSibling, removeQueued, takeBack, openMedia, callName, saveExport, conversationMenu, copyCode };
}
