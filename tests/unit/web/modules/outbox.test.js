import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiProblem } from "./page/api.js";
import { createOutbox } from "./page/outbox.js";

/** What `personal` of storage.js is, in memory. */
class MemoryStorage extends Map {
  names(prefix) { return [...this.keys()].filter((name) => name.startsWith(prefix)); }
  read(name) { return JSON.parse(this.get(name) ?? "null"); }
  write(name, value) { this.set(name, JSON.stringify(value)); }
  remove(name) { this.delete(name); }
}

/** A service that takes a message once for each key. `faults`: what happens first, {after: true} behind the effect. */
function service(faults = []) {
  const messages = new Map(), sessions = new Map();
  return { messages, sessions, faults, async call(method, path, { body, headers }) {
    const fault = faults.shift(), key = headers["Idempotency-Key"];
    if (fault && !fault.after) throw new ApiProblem(fault);
    const made = path === "api/sessions" ? sessions : messages;
    const known = made.get(key) ?? { session_id: body.session_id ?? `s${sessions.size + 1}`, body, user_message_id: `m${messages.size + 1}` };
    made.set(key, known);
    if (fault) throw new ApiProblem(fault);
    return known;
  } };
}

function open(api, storage, more = {}) {
  const seen = { accepted: [], sessions: [], auth: 0 };
  const box = createOutbox({ api, storage, backoffMs: [1], onChange: () => more.onChange?.(), onSession: (key, one) => seen.sessions.push([key, one.session_id]),
    onAccepted: (item, one) => seen.accepted.push([item.message, one.session_id]), onAuth: () => { seen.auth += 1; } });
  return { box, seen };
}


/** Waits until `isTrue()`; the test's own time limit ends it. */
async function until(isTrue) {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 1));
}
const item = (id, more = {}) => ({ id, at: 1, session_id: "s", create: null, message: id, ...more });
const LOST = { status: 0, name: "network" };

test("a message whose answer was lost is sent again and counts once", async () => {
  const api = service([{ ...LOST, after: true }, LOST, { status: 503, name: "overloaded", after: true }]), storage = new MemoryStorage();
  const { box, seen } = open(api, storage);
  box.post(item("a"));
  await until(() => seen.accepted.length === 1);
  assert.deepEqual([api.messages.size, seen.accepted, storage.size], [1, [["a", "s"]], 0]);
});

test("what was not accepted survives a reload, with its key", async () => {
  const storage = new MemoryStorage(), lost = service(Array(1000).fill({ ...LOST, after: true }));
  open(lost, storage).box.post(item("a"));
  await until(() => lost.messages.size === 1);
  const key = [...lost.messages.keys()][0], api = service();
  const { box, seen } = open(api, storage);
  box.start();
  await until(() => seen.accepted.length === 1);
  assert.deepEqual([[...api.messages.keys()], seen.accepted, storage.size], [[key], [["a", "s"]], 0]);
  lost.faults.splice(0, lost.faults.length, ...Array(3).fill({ status: 422, name: "invalid" })); // the first page stops
});

test("the messages of a conversation are sent in order, those of others do not wait", async () => {
  const api = service([{ status: 503, name: "overloaded", retryAfter: 0.01 }]), { box, seen } = open(api, new MemoryStorage());
  box.post(item("a", { at: 1 }));
  box.post(item("b", { at: 2 }));
  box.post(item("other", { at: 3, session_id: "t" }));
  await until(() => seen.accepted.length === 3);
  assert.deepEqual(seen.accepted.map(([message]) => message), ["other", "a", "b"]);
});

test("a new conversation is made once, for all of its messages", async () => {
  const api = service([{ ...LOST, after: true }, LOST]), { box, seen } = open(api, new MemoryStorage());
  const create = { key: "k", body: { title: "t" } };
  box.post(item("a", { at: 1, session_id: null, create }));
  box.post(item("b", { at: 2, session_id: null, create }));
  assert.deepEqual(box.newConversations(), ["k", "k"]);
  await until(() => seen.accepted.length === 2);
  assert.deepEqual([api.sessions.size, seen.sessions, seen.accepted], [1, [["k", "s1"]], [["a", "s1"], ["b", "s1"]]]);
});

test("a refusal that does not pass waits for the user, who may take the message back", async () => {
  const api = service([{ status: 422, name: "invalid" }]), storage = new MemoryStorage(), { box } = open(api, storage);
  box.post(item("a"));
  await until(() => box.of("s")[0].state === "failed");
  assert.deepEqual(box.of("s").map((one) => [one.state, one.problem.name]), [["failed", "invalid"]]);
  assert.equal(box.discard("a").message, "a");
  assert.deepEqual([box.size, storage.size], [0, 0]);
});

test("what another tab has taken back is not sent", async () => {
  const storage = new MemoryStorage();
  open(service(), storage).box.post(item("a"));
  const api = service(), { box } = open(api, storage);
  storage.clear();
  box.start();
  await until(() => box.size === 0);
  assert.equal(api.messages.size, 0);
});

test("without a valid key nothing is tried again until there is one", async () => {
  const api = service([{ status: 401, name: "unauthorized" }]), { box, seen } = open(api, new MemoryStorage());
  box.post(item("a"));
  await until(() => box.of("s")[0].state === "waiting");
  assert.deepEqual([seen.auth, api.messages.size, box.of("s")[0].state], [1, 0, "waiting"]);
  box.retryAll();
  await until(() => seen.accepted.length === 1);
  assert.deepEqual(seen.accepted, [["a", "s"]]);
});
