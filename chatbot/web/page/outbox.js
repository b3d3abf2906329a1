// Messages that were sent but not yet accepted. They are kept in the browser until the service has them on disk, and are
// sent again, with the same Idempotency-Key, until it has: a reload, a lost network or a restart loses and doubles none.

import { ApiProblem, isAuthProblem, isTransient } from "./api.js";

const PREFIX = "chatbot.outbox.";
const BACKOFF_MS = [1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/**
 * An item: `{id, at, session_id, create, message, parent_id?, on_busy?}`. `session_id` is null until the conversation exists;
 * `create` is then `{key, body}`, the request that makes it. In memory it also has `state` ("sending", "waiting" with
 * `retryAt`, "failed") and `problem`.
 *
 * `storage`: `personal` of storage.js. `onChange()`; `onSession(createKey, session)` when a conversation was made; `onAccepted(item, accepted)`;
 * `onAuth()` if the key is missing or wrong: `retryAll` goes on.
 */
export function createOutbox({ api, storage, onChange, onSession, onAccepted, onAuth, backoffMs = BACKOFF_MS }) {
  const items = new Map(), timers = new Map(), busy = new Set(); // busy: conversations with a request under way

  for (const name of storage.names(PREFIX)) {
    const item = storage.read(name);
    if (item) items.set(item.id, { ...item, state: "sending", problem: null, retryAt: null, attempt: 0, isKept: true });
    else storage.remove(name);
  }

  const conversationOf = (item) => item.session_id ?? item.create.key;

  function sorted() {
    return [...items.values()].sort((a, b) => a.at - b.at);
  }

  function keep(item) {
    const { state, problem, retryAt, attempt, isKept, ...kept } = item;
    // If the storage is full it is sent all the same, but a reload loses it.
    items.set(item.id, { ...item, isKept: storage.write(PREFIX + item.id, kept) });
  }

  function set(item, changes) {
    if (items.has(item.id)) items.set(item.id, { ...items.get(item.id), ...changes });
    onChange();
  }

  function remove(id) {
    items.delete(id);
    clearTimeout(timers.get(id));
    timers.delete(id);
    storage.remove(PREFIX + id);
  }

  /** Sends the first item of each conversation: the next one follows when the service has it. */
  function pump() {
    for (const item of sorted()) {
      const conversation = conversationOf(item);
      if (busy.has(conversation)) continue;
      const isFirst = sorted().find((one) => conversationOf(one) === conversation) === item;
      if (!isFirst || item.state === "failed" || timers.has(item.id)) continue;
      busy.add(conversation);
      deliver(item).finally(() => {
        busy.delete(conversation);
        if (!timers.has(item.id) && items.get(item.id)?.state !== "waiting") pump();
      });
    }
  }

  async function deliver(item) {
    if (item.isKept && !storage.has(PREFIX + item.id)) { // another tab has sent it or taken it back
      items.delete(item.id);
      onChange();
      return;
    }
    set(item, { state: "sending", problem: null, retryAt: null });
    try {
      const sessionId = item.session_id ?? (await createSession(item.create));
      const body = { session_id: sessionId, message: sendable(item.message) };
      if (item.parent_id !== undefined) body.parent_id = item.parent_id;
      if (item.on_busy) body.on_busy = item.on_busy;
      const headers = { Prefer: "respond-async", "Idempotency-Key": item.id };
      const accepted = await api.call("POST", "api/chat", { body, headers });
      const sent = items.get(item.id) ?? item;
      remove(item.id);
      onAccepted(sent, accepted);
      onChange();
    } catch (fault) {
      if (!(fault instanceof ApiProblem)) throw fault;
      refused(item, fault);
    }
  }

  async function createSession(create) {
    const headers = { "Idempotency-Key": create.key };
    const session = await api.call("POST", "api/sessions", { body: create.body, headers });
    for (const one of [...items.values()]) {
      if (one.session_id === null && one.create.key === create.key) keep({ ...one, session_id: session.session_id });
    }
    onSession(create.key, session);
    return session.session_id;
  }

  function refused(item, problem) {
    const attempt = (items.get(item.id)?.attempt ?? 0) + 1;
    if (isAuthProblem(problem)) {
      set(item, { state: "waiting", problem, retryAt: null, attempt });
      onAuth(problem);
    } else if (isTransient(problem)) {
      const waitMs = (problem.retryAfter ?? 0) * 1000 || backoffMs[Math.min(attempt, backoffMs.length) - 1];
      timers.set(item.id, setTimeout(() => { timers.delete(item.id); pump(); }, waitMs));
      set(item, { state: "waiting", problem, retryAt: Date.now() + waitMs, attempt });
    } else {
      set(item, { state: "failed", problem, retryAt: null, attempt });
    }
  }

  return {
    /** All items of a conversation, oldest first; `key`: its id, or the key that creates it. */
    of: (key) => sorted().filter((one) => conversationOf(one) === key || one.create?.key === key),
    get size() { return items.size; },
    /** The keys of conversations that do not exist yet. */
    newConversations: () => sorted().filter((one) => one.session_id === null).map((one) => one.create.key),
    post(item) {
      keep({ ...item, state: "sending", problem: null, retryAt: null, attempt: 0 });
      onChange();
      pump();
    },
    retry(id) {
      const item = items.get(id);
      if (!item) return;
      clearTimeout(timers.get(id));
      timers.delete(id);
      items.set(id, { ...item, state: "sending" });
      onChange();
      pump();
    },
    /** Try everything that waits: the network or the key is there again. */
    retryAll() {
      for (const item of sorted()) if (item.state === "waiting") this.retry(item.id);
      pump();
    },
    /** Takes an item back; returns it. The service may have it already, if no answer came. */
    discard(id) {
      const item = items.get(id);
      remove(id);
      onChange();
      pump();
      return item;
    },
    start: pump,
  };
}

/** The message as the API takes it: the types of files are for showing them meanwhile. */
function sendable(message) {
  if (typeof message === "string") return message;
  return message.map((part) => (part.type === "media" ? { type: part.type, sha256: part.sha256, name: part.name } : part));
}
