// The open conversation: its history, then its feed. Holds the data; the view is told of each change.

import { ApiProblem, isTransient } from "./api.js";
import { openFeed } from "./feed.js";
import { fromHistory, reduce, runningReply, withOlder } from "./store.js";

const PAGE = 60; // messages of one page of the history
const KEPT_MAX = 12; // conversations in memory: going back to one is immediate, and its feed sends what is new
const RETRY_MS = [1_000, 2_000, 5_000, 10_000];
const RENDER_MS = 100; // at most ten renderings a second

/**
 * `onChange()` after a change of `data`, `load` or `link`; `onReplyEnd(message)`; `onProblem(problem)`: one that needs
 * the user (a key).
 */
export function createConversations({ api, onChange, onReplyEnd, onProblem }) {
  const kept = new Map();
  let open = null, timer = null, renderedAt = 0;

  function changed() {
    if (timer !== null) return;
    const waitMs = Math.max(0, RENDER_MS - (performance.now() - renderedAt));
    timer = setTimeout(() => {
      timer = null;
      renderedAt = performance.now();
      onChange();
    }, waitMs);
  }

  /** Ends what belongs to the conversation that is open. */
  function leave() {
    if (!open) return;
    open.reading?.abort();
    open.feed?.close();
    clearTimeout(open.timer);
    if (open.data && !open.data.stale && !open.data.ended) {
      kept.delete(open.id);
      kept.set(open.id, open.data);
      if (kept.size > KEPT_MAX) kept.delete(kept.keys().next().value);
    }
    open = null;
  }

  function show(id, data = null) {
    leave();
    if (id === null) return;
    open = { id, data: data ?? kept.get(id) ?? null, load: "loading", problem: null, link: "connecting", retryAt: null,
      feed: null, reading: null, timer: null, attempt: 0, isOlderLoading: false };
    if (open.data) follow(open);
    else read(open);
    onChange();
  }

  async function read(one) {
    one.reading?.abort();
    one.feed?.close();
    one.feed = null;
    clearTimeout(one.timer);
    const reading = one.reading = new AbortController();
    try {
      const shown = one.data?.order.length ?? 0;
      const limit = Math.min(Math.max(PAGE, shown + 10), 500);
      const list = await api.call("GET", `api/sessions/${one.id}/messages?limit=${limit}`, { signal: reading.signal });
      one.data = fromHistory(list, one.data);
      one.attempt = 0;
      follow(one);
    } catch (fault) {
      if (reading.signal.aborted || one !== open) return;
      if (!(fault instanceof ApiProblem)) throw fault;
      one.load = one.data ? "loaded" : "failed";
      one.problem = fault;
      if (fault.status === 401) onProblem(fault);
      else if (isTransient(fault)) {
        const waitMs = (fault.retryAfter ?? 0) * 1000 || RETRY_MS[Math.min(one.attempt, RETRY_MS.length - 1)];
        one.attempt += 1;
        one.retryAt = Date.now() + waitMs;
        one.timer = setTimeout(() => read(one), waitMs);
      }
    }
    changed();
  }

  function follow(one) {
    Object.assign(one, { load: "loaded", problem: null, retryAt: null });
    one.feed = openFeed(api, `api/sessions/${one.id}/stream`, {
      cursor: one.data.cursor,
      onFrame: (frame, id) => take(one, frame, id),
      onState: (state, detail) => {
        if (one !== open) return;
        one.link = state;
        one.retryAt = detail.retryAt ?? null;
        if (detail.problem) stopped(one, detail.problem);
        changed();
      },
    });
  }

  function stopped(one, problem) {
    one.problem = problem;
    kept.delete(one.id);
    if (problem.status === 401) onProblem(problem);
    else if (problem.status === 404) one.data = { ...one.data, ended: problem.name === "session-expired" ? "expired" : "deleted" };
  }

  function take(one, frame, id) {
    if (one !== open) return;
    const before = one.data;
    one.data = reduce(before, frame, id, Date.now());
    if (one.data.stale && !before.stale) read(one);
    if (one.data.ended) kept.delete(one.id);
    if ((frame.type === "complete" || frame.type === "error") && frame.status !== "unrecorded") {
      const message = one.data.messages[frame.message_id];
      if (message) onReplyEnd(message);
    }
    changed();
  }

  return {
    get open() { return open; },
    show,
    /** Read the history again: after a key, or by the user's hand. */
    reload() {
      if (open) read(open);
    },
    /** The network or the tab is back. */
    wake() {
      if (!open) return;
      if (open.feed) open.feed.wake();
      else if (open.load === "failed") read(open);
    },
    /** Closes the feed of a tab that nobody looks at; `resume` opens it again at its cursor. */
    pause() {
      if (!open?.feed || !open.data || runningReply(open.data)) return false;
      open.feed.close();
      open.feed = null;
      return true;
    },
    resume() {
      if (open?.data && !open.feed && !open.data.ended) follow(open);
    },
    forget(id) {
      kept.delete(id);
    },
    clear() {
      kept.clear();
    },
    /** Reads the page of messages before the first one. Raises ApiProblem. */
    async readOlder() {
      const one = open;
      if (!one?.data?.older || one.isOlderLoading) return;
      one.isOlderLoading = true;
      onChange();
      try {
        const list = await api.call("GET", `api/sessions/${one.id}/messages?limit=${PAGE}&before=${one.data.older}`);
        if (one === open) one.data = withOlder(one.data, list);
      } finally {
        one.isOlderLoading = false;
        if (one === open) onChange();
      }
    },
  };
}
