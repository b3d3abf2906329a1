// A feed that is read until it ends: it reconnects with its cursor, notices dead connections, and waits politely.

import { createParser } from "./event_stream.js";
import { ApiProblem, isTransient } from "./api.js";

const SILENCE_MAX_MS = 40_000; // the service pings every 15 s: after two missed pings the connection is dead
const CHECK_MS = 5_000;
const BACKOFF_MS = [500, 1_000, 2_000, 4_000, 8_000, 15_000];
const STABLE_MS = 5_000; // a connection that lasted this long starts the backoff again

/**
 * Follows `path` (a feed) from `cursor`.
 *
 * `onFrame(frame, id)` is called for each frame; after an "expired", "deleted" or "session_gone" that ends the stream
 * with [DONE] the feed stops. `onState(state, detail)`: "connecting", "live", "waiting" (`detail.retryAt`, ms) or
 * "stopped" (`detail.problem`: what will not get better by itself). Returns {close, wake, cursor}.
 */
export function openFeed(api, path, { cursor = null, onFrame, onState, backoffMs = BACKOFF_MS, silenceMs = SILENCE_MAX_MS }) {
  let isClosed = false, last = cursor, attempt = 0, retryMs = null, wakeUp = null, connection = null, heardAt = 0;

  async function run() {
    while (!isClosed) {
      onState("connecting", {});
      const openedAt = Date.now();
      let waitMs = null;
      try {
        const isOver = await read();
        if (isOver || isClosed) return;
      } catch (fault) {
        if (isClosed) return;
        if (fault instanceof ApiProblem && !isTransient(fault)) {
          isClosed = true;
          onState("stopped", { problem: fault });
          return;
        }
        if (fault.retryAfter) waitMs = fault.retryAfter * 1000;
      }
      if (Date.now() - openedAt > STABLE_MS) attempt = 0;
      const backoff = backoffMs[Math.min(attempt, backoffMs.length - 1)];
      waitMs ??= retryMs ?? backoff * (0.5 + Math.random() / 2); // jitter, so that a thousand tabs do not come at once
      retryMs = null;
      attempt += 1;
      onState("waiting", { retryAt: Date.now() + waitMs });
      await pause(waitMs);
    }
  }

  function pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      wakeUp = () => { clearTimeout(timer); resolve(); };
    });
  }

  /** Reads one connection to its end; returns whether the feed is over. Raises what `api.open` raises. */
  async function read() {
    connection = new AbortController();
    heardAt = Date.now();
    const watch = setInterval(checkSilence, Math.min(CHECK_MS, silenceMs));
    let isOver = false;
    try {
      const headers = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const response = await api.open("GET", path, { headers, signal: connection.signal });
      onState("live", {});
      const push = createParser(({ data, id }) => {
        if (isClosed) return;
        if (data === "[DONE]") {
          isOver = isClosed = true;
          return;
        }
        take(JSON.parse(data), id);
        if (id) last = id;
      }, (milliseconds) => { retryMs = milliseconds; });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done || isClosed) return isOver;
        heardAt = Date.now();
        attempt = 0;
        push(value);
      }
    } finally {
      clearInterval(watch);
      connection.abort();
    }
  }

  /** A fault of the page itself is reported: to read the frame again would not help, but hide it. */
  function take(frame, id) {
    try {
      onFrame(frame, id);
    } catch (fault) {
      reportError(fault);
    }
  }

  /** Ends a connection on which nothing has come for long. By the clock: timers stand still in a closed laptop. */
  function checkSilence() {
    if (Date.now() - heardAt > silenceMs) connection?.abort();
  }

  run();
  return {
    close() {
      isClosed = true;
      connection?.abort();
      wakeUp?.();
    },
    /** Try now: the network or the tab is back. */
    wake() {
      checkSilence();
      wakeUp?.();
    },
    get cursor() { return last; },
  };
}
