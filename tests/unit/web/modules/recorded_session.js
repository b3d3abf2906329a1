// A session's feed as the service gives it: frames with cursors, from any cursor, cut anywhere.

import { choose, randomText } from "./random.js";

const GROWTH = { text: "chunk", reasoning: "reasoning", refusal: "refusal", tool_call: "tool_call" };
const codePoints = (text) => [...text].length;

/** Events of a session of `turns` turns: {version, ...}. A reply's event "ended" has all of its parts. */
export function randomSession(random, turns) {
  const events = [];
  let version = 1, parent = null;
  const record = (event) => events.push({ ...event, version: ++version });
  for (let turn = 0; turn < turns; turn += 1) {
    const user = `user${turn}`, text = randomText(random, 8);
    record({ type: "message", message_id: user, parent_id: parent, role: "user", content: text, created_at: "2026-01-01T00:00:00Z", reply_id: `reply${turn}` });
    const attempts = random() < 0.3 ? 2 : 1;
    for (let attempt = 0; attempt < attempts; attempt += 1) {
      const reply = `reply${turn}${attempt ? "b" : ""}`;
      if (attempt) record({ type: "queued", session_id: "s", message_id: reply, user_message_id: user });
      record({ type: "start", session_id: "s", message_id: reply, user_message_id: user, model: "m" });
      const kinds = choose(random, [["text"], ["text"], ["reasoning", "text"], ["text", "tool_call", "tool_call"], ["reasoning", "refusal"]]);
      const parts = kinds.map((type, index) => {
        const content = randomText(random, 1 + Math.floor(random() * 30));
        return type === "tool_call" ? { type, call_id: `c${index}`, name: "look_up", arguments: content } : { type, text: content };
      });
      record({ type: "ended", message_id: reply, parts, status: choose(random, ["complete", "complete", "failed", "cancelled"]) });
      parent = reply;
    }
  }
  return events;
}

/** The frames after `cursor` as [frame, id]; growth in pieces of random sizes. A crash may cut the text: `kept`. */
export function framesAfter(events, cursor, random) {
  const [version, offset] = cursor.split(":").map(Number), frames = [];
  for (const event of events) {
    if (event.version <= version) continue;
    const { version: at, ...frame } = event;
    if (event.type !== "ended") {
      frames.push([{ ...frame, version: at }, `${at}:0`]);
      continue;
    }
    const isPartlyRead = version === at - 1; // the cursor is in the middle of this reply
    let done = 0;
    const skip = isPartlyRead ? offset : 0;
    event.parts.forEach((part, index) => {
      const points = [...(part.text ?? part.arguments)];
      let from = Math.min(points.length, Math.max(0, skip - done));
      if (from === 0 && points.length && part.type === "tool_call" && random() < 0.3) frames.push([growth(event, part, index, ""), `${at - 1}:${done}`]);
      while (from < points.length) {
        const to = Math.min(points.length, from + 1 + Math.floor(random() * 7));
        frames.push([growth(event, part, index, points.slice(from, to).join("")), `${at - 1}:${done + to}`]);
        from = to;
      }
      done += points.length;
    });
    frames.push([end(event), `${at}:0`]);
  }
  return frames;
}

function growth(event, part, index, content) {
  const base = { type: GROWTH[part.type], message_id: event.message_id };
  if (index || part.type !== "text") base.part = index;
  return part.type === "tool_call" ? { ...base, call_id: part.call_id, name: part.name, arguments: content } : { ...base, content };
}

function end(event) {
  const text = event.parts.filter((one) => one.type === "text").map((one) => one.text).join("");
  if (event.status === "complete") {
    return { type: "complete", message_id: event.message_id, full_response: text, finish_reason: "stop", finish_detail: "", version: event.version,
      token_usage: null, created_at: "2026-01-01T00:00:00Z" };
  }
  const isTextOnly = event.parts.every((one) => one.type === "text");
  return { type: "error", message_id: event.message_id, status: event.status, title: "T", detail: "D", message: "D", version: event.version,
    length: codePoints(text), ...(isTextOnly ? {} : { part_lengths: event.parts.map((one) => codePoints(one.text ?? one.arguments)) }) };
}

/** What a client has to have of each reply in the end. */
export function expectedParts(events) {
  return Object.fromEntries(events.filter((one) => one.type === "ended").map((one) => [one.message_id, { parts: one.parts, status: one.status }]));
}

/** The bytes of an event stream with these frames and pings between them. */
export function encodeFrames(frames, random) {
  const blocks = frames.map(([frame, id]) => `${random() < 0.2 ? ": ping\n\n" : ""}id: ${id}\ndata: ${JSON.stringify(frame)}\n\n`);
  return new TextEncoder().encode(blocks.join(""));
}
