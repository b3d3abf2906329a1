import assert from "node:assert/strict";
import { test } from "node:test";
import { arrange, cutText, fromHistory, reduce, runningReply, withOlder } from "./page/store.js";

const user = (id, parent, siblings = [id]) => ({ message_id: id, role: "user", parent_id: parent, siblings, status: "complete", parts: [{ type: "text", text: id }], content: id });
const reply = (id, parent, status = "complete", siblings = [id]) => ({ ...user(id, parent, siblings), role: "assistant", status });
const history = (messages, more = {}) => fromHistory({ session_id: "s", messages, cursor: "5:0", ...more });
const run = (conversation, ...frames) => frames.reduce((known, frame, index) => reduce(known, frame, `${10 + index}:0`, 1000 * index), conversation);
const posted = (id, parent, replyId) => ({ type: "message", message_id: id, parent_id: parent, role: "user", content: id, created_at: "", reply_id: replyId });
const started = (id, parent) => ({ type: "start", message_id: id, user_message_id: parent, model: "m" });

test("text is cut at code points, not in the middle of a character", () => {
  assert.equal(cutText("a😀b", 2), "a😀");
  assert.equal(cutText("a😀b", 3), "a😀b");
  assert.equal(cutText("가😀", 0), "");
});

test("an error cuts what was not recorded", () => {
  const grown = run(history([]), posted("u", null, "r"), started("r", "u"), { type: "chunk", message_id: "r", content: "a😀bc" });
  const cut = run(grown, { type: "error", message_id: "r", status: "interrupted", title: "T", detail: "D", length: 2 });
  assert.deepEqual(cut.messages.r.parts, [{ type: "text", text: "a😀" }]);
  assert.deepEqual(cut.messages.r.error, { title: "T", detail: "D" });
  const again = run(cut, started("r", "u"), { type: "chunk", message_id: "r", content: "x" });
  assert.deepEqual([again.messages.r.status, again.messages.r.parts[0].text, again.messages.r.error], ["streaming", "x", null]);
});

test("an end that is not recorded yet changes nothing", () => {
  const grown = run(history([]), posted("u", null, "r"), started("r", "u"), { type: "chunk", message_id: "r", content: "abc" });
  assert.equal(run(grown, { type: "error", message_id: "r", status: "unrecorded", title: "", detail: "", length: 3 }).messages.r.status, "streaming");
});

test("the lengths of parts drop the parts that came after", () => {
  const grown = run(history([]), posted("u", null, "r"), started("r", "u"), { type: "reasoning", message_id: "r", content: "why", part: 0 },
    { type: "chunk", message_id: "r", content: "text", part: 1 }, { type: "tool_call", message_id: "r", call_id: "c", name: "f", arguments: "{}", part: 2 });
  const cut = run(grown, { type: "error", message_id: "r", status: "failed", title: "", detail: "", length: 2, part_lengths: [3, 2] });
  assert.deepEqual(cut.messages.r.parts, [{ type: "reasoning", text: "why" }, { type: "text", text: "te" }]);
});

test("regenerating makes a sibling and selects it", () => {
  const before = history([user("u", null), reply("r", "u"), user("u2", "r"), reply("r2", "u2")]);
  const after = run(before, { type: "queued", message_id: "n", user_message_id: "u" }, started("n", "u"));
  assert.deepEqual(after.order, ["u", "n"]);
  assert.deepEqual([after.messages.n.siblings, after.messages.r.siblings], [["r", "n"], ["r", "n"]]);
  assert.equal(after.stale, false);
});

test("an edit makes a branch, at the start of the conversation, too", () => {
  const before = history([user("u", null), reply("r", "u")]);
  const after = run(before, posted("e", null, "r2"));
  assert.deepEqual([after.order, after.messages.e.siblings, after.messages.r2.status], [["e", "r2"], ["u", "e"], "queued"]);
});

test("what continues a branch that is not shown makes the history stale", () => {
  const before = history([user("u", null), reply("r", "u")]);
  assert.equal(run(before, posted("x", "elsewhere", "y")).stale, true);
  assert.equal(run(before, { type: "branch", message_id: "other" }).stale, true);
  assert.equal(run(before, { type: "branch", message_id: "r" }).stale, false);
  assert.equal(run(before, { type: "resync" }).stale, true);
  assert.equal(run(history([user("u", "p"), reply("r", "u")], { next: "u" }), posted("e", null, "r2")).stale, true);
});

test("the text of a reply of another branch is ignored", () => {
  const before = history([user("u", null)]);
  assert.deepEqual(run(before, { type: "chunk", message_id: "elsewhere", content: "x" }).messages, before.messages);
});

test("turns behind the running reply wait in order, and can be removed", () => {
  const before = run(history([]), posted("u", null, "r"), started("r", "u"), posted("u2", "r", "r2"), posted("u3", "r2", "r3"));
  assert.deepEqual(arrange(before).shown.map((one) => one.message_id), ["u", "r"]);
  assert.deepEqual(arrange(before).waiting.map((one) => one.message.message_id), ["u2", "u3"]);
  const after = run(before, { type: "removed", message_id: "u2", reply_id: "r2", parent_id: "r" });
  assert.deepEqual(arrange(after).waiting.map((one) => [one.message.content, one.message.parent_id]), [["u3", "r"]]);
  const next = run(after, { type: "complete", message_id: "r", full_response: "", finish_reason: "stop", token_usage: null, created_at: "" }, started("r3", "u3"));
  assert.deepEqual([arrange(next).waiting, runningReply(next).message_id], [[], "r3"]);
});

test("a complete reply has exactly the recorded text, its usage and its time", () => {
  const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
  const after = run(history([]), posted("u", null, "r"), started("r", "u"), { type: "chunk", message_id: "r", content: "he" },
    { type: "complete", message_id: "r", full_response: "hello", finish_reason: "stop", finish_detail: "", token_usage: usage, created_at: "t" });
  assert.deepEqual([after.messages.r.parts, after.messages.r.token_usage, after.messages.r.timing.ended_ms], [[{ type: "text", text: "hello" }], usage, 3000]);
  assert.equal(runningReply(after), null);
});

test("older pages come in front, without doubles", () => {
  const before = history([user("u2", "r"), reply("r2", "u2")], { next: "u2" });
  const after = withOlder(before, { messages: [user("u", null), reply("r", "u"), user("u2", "r")] });
  assert.deepEqual([after.order, after.older], [["u", "r", "u2", "r2"], null]);
});

test("frames that a newer service may send change nothing but the cursor", () => {
  const before = history([user("u", null)]);
  assert.deepEqual(reduce(before, { type: "new_kind" }, "9:0", 0), { ...before, cursor: "9:0" });
  assert.equal(reduce(before, { type: "draining" }, "", 0).cursor, "5:0");
});

test("reducing changes no object that was there", () => {
  const before = history([user("u", null), reply("r", "u")]), copy = structuredClone(before);
  run(before, { type: "queued", message_id: "n", user_message_id: "u" }, started("n", "u"), { type: "chunk", message_id: "n", content: "x" });
  assert.deepEqual(before, copy);
});

test("a redacted message or part is gone, and says why", () => {
  const parts = [{ type: "reasoning", text: "why" }, { type: "text", text: "r" }];
  const before = history([user("u", null), { ...reply("r", "u"), parts }]);
  const one = run(before, { type: "redacted", message_id: "r", part: 0, reason_code: "asked", version: 6 });
  assert.deepEqual(one.messages.r.parts, [{ type: "redacted", kind: "reasoning", reason_code: "asked" }, parts[1]]);
  assert.deepEqual([one.messages.r.content, one.stale], ["r", true]);
  const all = run(one, { type: "redacted", message_id: "r", part: null, reason_code: "again", version: 7 });
  assert.deepEqual(all.messages.r.parts.map((part) => [part.kind, part.reason_code]), [["reasoning", "asked"], ["text", "again"]]);
  assert.equal(all.messages.r.content, "");
});
