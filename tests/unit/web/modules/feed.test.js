import assert from "node:assert/strict";
import { test } from "node:test";
import { createParser } from "./page/event_stream.js";
import { openFeed } from "./page/feed.js";
import { ApiProblem } from "./page/api.js";
import { fromHistory, reduce } from "./page/store.js";
import { choose, randomNumbers } from "./random.js";
import { encodeFrames, expectedParts, framesAfter, randomSession } from "./recorded_session.js";

const EMPTY = { session_id: "s", messages: [], cursor: "1:0" };

function checkReplies(conversation, events) {
  for (const [id, { parts, status }] of Object.entries(expectedParts(events))) {
    const message = conversation.messages[id];
    assert.deepEqual([id, message.status, message.parts], [id, status, parts]);
  }
}

/** A service whose connections break after a random number of bytes, in pieces that may split a character. */
function breakingApi(events, random, opened) {
  return {
    async open(method, path, { headers, signal }) {
      opened.push(headers["Last-Event-ID"]);
      if (random() < 0.2) throw new ApiProblem({ status: 0, name: "network" });
      const bytes = encodeFrames(framesAfter(events, headers["Last-Event-ID"], random), random);
      const done = new TextEncoder().encode("data: [DONE]\n\n"), isCut = random() < 0.8 && bytes.length > 0;
      const shown = isCut ? bytes.subarray(0, Math.floor(random() * bytes.length)) : new Uint8Array([...bytes, ...done]);
      const body = new ReadableStream({
        start(controller) {
          signal.addEventListener("abort", () => { try { controller.error(new Error("aborted")); } catch { /* it is over */ } });
          for (let at = 0; at < shown.length;) {
            const size = 1 + Math.floor(random() * 40);
            controller.enqueue(shown.slice(at, at + size));
            at += size;
          }
          if (random() < 0.5) controller.close();
          else controller.error(new TypeError("network error"));
        },
      });
      return { body };
    },
  };
}

test("any splits and breaks of a feed give the same conversation", async () => {
  for (let seed = 1; seed <= 25; seed += 1) {
    const random = randomNumbers(seed), events = randomSession(random, 4), opened = [], wrong = [];
    let conversation = fromHistory(EMPTY), isRead = 0;
    await new Promise((resolve) => {
      const feed = openFeed(breakingApi(events, random, opened), "feed", {
        cursor: conversation.cursor, backoffMs: [0], onState: () => {},
        onFrame: (frame, id) => {
          if (opened.length > isRead && isRead && opened.at(-1) !== conversation.cursor) wrong.push(opened.at(-1));
          isRead = opened.length;
          conversation = reduce(conversation, frame, id, 0);
          if (conversation.cursor === `${events.at(-1).version}:0`) {
            feed.close();
            resolve();
          }
        },
      });
    });
    try {
      checkReplies(conversation, events);
      assert.equal(conversation.stale, false);
      assert.deepEqual(wrong, []); // it resumed after the last frame, each time
    } catch (fault) {
      fault.message += `\nseed ${seed}`;
      throw fault;
    }
  }
});

test("a history read in the middle of a reply, and the feed after it, give the same conversation", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = randomNumbers(seed), events = randomSession(random, 3), frames = framesAfter(events, "1:0", random);
    let before = fromHistory(EMPTY);
    for (const [frame, id] of frames.slice(0, Math.floor(random() * frames.length))) before = reduce(before, frame, id, 0);
    const messages = before.order.map((id) => before.messages[id]);
    let after = fromHistory({ session_id: "s", messages, cursor: before.cursor });
    for (const [frame, id] of framesAfter(events, before.cursor, random)) after = reduce(after, frame, id, 0);
    const shown = after.order.map((id) => after.messages[id]).filter((one) => one.role === "assistant");
    const expected = expectedParts(events);
    for (const message of shown) assert.deepEqual([seed, message.parts], [seed, expected[message.message_id].parts]);
  }
});

test("a connection on which nothing comes is given up, and the feed resumes after its last frame", async () => {
  const opened = [], frame = new TextEncoder().encode('id: 7:0\ndata: {"type":"session"}\n\n');
  const api = { async open(method, path, { headers, signal }) {
    opened.push(headers["Last-Event-ID"]);
    return { body: new ReadableStream({ start(controller) {
      signal.addEventListener("abort", () => controller.error(signal.reason)); // as fetch does
      if (opened.length === 1) controller.enqueue(frame);
    } }) };
  } };
  await new Promise((resolve) => {
    const feed = openFeed(api, "feed", { cursor: "1:0", backoffMs: [0], silenceMs: 5, onFrame: () => {}, onState: () => {
      if (opened.length < 2) return;
      feed.close();
      resolve();
    } });
  });
  assert.deepEqual(opened, ["1:0", "7:0"]);
});

test("a refusal that does not pass stops the feed, others do not", async () => {
  const states = [];
  const api = { attempts: 0, async open() {
    this.attempts += 1;
    throw new ApiProblem(this.attempts < 3 ? { status: 503, name: "overloaded" } : { status: 404, name: "session-deleted" });
  } };
  await new Promise((resolve) => openFeed(api, "feed", { backoffMs: [0], onFrame: () => {}, onState: (state, detail) => {
    states.push(detail.problem?.name ?? state);
    if (state === "stopped") resolve();
  } }));
  assert.deepEqual(states, ["connecting", "waiting", "connecting", "waiting", "connecting", "session-deleted"]);
});

test("an event stream may be split anywhere, with any kind of line end", () => {
  const text = ": ping\r\n\r\nid: 1\r\ndata: a\r\ndata: b\r\n\r\nid: 2\rdata:c\r\rretry: 1500\ndata\nignored: x\n\nid:\ndata: d\n\ndata: cut";
  const expected = [{ data: "a\nb", id: "1" }, { data: "c", id: "2" }, { data: "", id: "2" }, { data: "d", id: "" }];
  for (let seed = 1; seed <= 300; seed += 1) {
    const random = randomNumbers(seed), found = [], retries = [];
    const push = createParser((event) => found.push(event), (milliseconds) => retries.push(milliseconds));
    for (let at = 0; at < text.length;) {
      const size = choose(random, [1, 2, 3, 10]);
      push(text.slice(at, at + size));
      at += size;
    }
    assert.deepEqual([found, retries], [expected, [1500]]);
  }
});
