import assert from "node:assert/strict";
import { test } from "node:test";
import { problemFrom } from "./page/api.js";
import { lastCodeBlock } from "./page/last_code_block.js";
import { EMPTY_LIST, grouped, nameOf, reduceList, titleFrom, titleOfFork, withPage } from "./page/list_store.js";

const NOW = new Date(2026, 5, 10, 12).getTime();
const at = (day, hour = 9) => new Date(2026, 5, day, hour).toISOString();
const session = (id, accessed, more = {}) => ({ session_id: id, last_accessed: accessed, status: "active", title: id, preview: { message_id: `${id}1`, text: "hi" }, ...more });
const names = (list, hidden = []) => grouped(list, new Set(hidden), NOW).map((one) => [one.name, one.sessions.map((each) => each.session_id)]);

test("conversations are grouped by day, pinned ones first", () => {
  const page = { sessions: [session("a", at(10)), session("b", at(9)), session("c", at(4)), session("d", at(1)), session("p", at(1), { pinned: true })], next: "n" };
  const list = withPage(EMPTY_LIST, page, true);
  assert.deepEqual(names(list), [["pinned", ["p"]], ["today", ["a"]], ["yesterday", ["b"]], ["week", ["c"]], ["older", ["d"]]]);
  assert.deepEqual(names(list, ["a", "b"]), [["pinned", ["p"]], ["week", ["c"]], ["older", ["d"]]]);
  assert.equal(list.next, "n");
});

test("reading a conversation does not move it, a message does", () => {
  const list = withPage(EMPTY_LIST, { sessions: [session("a", at(10, 11)), session("b", at(10, 8))] }, true);
  const read = reduceList(list, { type: "session", session: session("b", at(10, 12)) });
  assert.deepEqual(names(read), [["today", ["a", "b"]]]);
  const posted = reduceList(read, { type: "session", session: session("b", at(10, 12), { preview: { message_id: "b2", text: "x" } }) });
  assert.deepEqual(names(posted), [["today", ["b", "a"]]]);
});

test("a fork has a title that no other conversation has", () => {
  assert.equal(titleOfFork("Trip", ["Trip", null]), "Trip (2)");
  assert.equal(titleOfFork("Trip (2)", ["Trip (2)", "Trip", "Trip (3)"]), "Trip (4)");
  assert.equal(titleOfFork("(1)", []), "(1) (2)");
});

test("the stream of changes adds, removes and makes stale", () => {
  const list = reduceList(EMPTY_LIST, { type: "session", session: session("a", at(10)) });
  assert.deepEqual(names(list), [["today", ["a"]]]);
  assert.deepEqual(names(reduceList(list, { type: "gone", session_id: "a", reason: "deleted" })), []);
  assert.equal(reduceList(list, { type: "resync" }).stale, true);
  assert.equal(reduceList(list, { type: "draining" }), list);
});

test("a title is the first line with words, cut at a word", () => {
  assert.equal(titleFrom("\n## Plan a trip\nto Seoul"), "Plan a trip");
  assert.equal(titleFrom("word ".repeat(30)), `${"word ".repeat(11)}word…`);
  assert.equal([...titleFrom("😀".repeat(80))].length, 61);
  assert.equal(nameOf({ title: null, preview: { text: "beginning" } }), "beginning");
  assert.equal(nameOf({ title: null, preview: { text: "long ".repeat(40) } }), `${"long ".repeat(11)}long…`);
});

test("the last block of code is found, with fences in it and without an end", () => {
  assert.equal(lastCodeBlock("a\n```js\n1\n```\nb\n````md\n```\nx\n```\n````\nend"), "```\nx\n```");
  assert.equal(lastCodeBlock("~~~\nopen\n  kept"), "open\n  kept");
  assert.equal(lastCodeBlock("no code"), null);
});

test("a problem has its type's name under any path prefix, and a proxy's page is one, too", () => {
  const header = (name) => ({ "Retry-After": "7", "X-Request-ID": "r" })[name] ?? null;
  const found = problemFrom(429, JSON.stringify({ type: "/chat/problems/too-many-pending", title: "T", detail: "D" }), header);
  assert.deepEqual([found.name, found.retryAfter, found.requestId, found.detail], ["too-many-pending", 7, "r", "D"]);
  assert.deepEqual([problemFrom(502, "<html>", () => null).name, problemFrom(502, "<html>", () => null).retryAfter], ["http-error", null]);
});
