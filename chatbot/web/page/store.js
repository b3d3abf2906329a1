// One conversation as data. `reduce` is pure: it takes the frames of the session's feed one by one, and the same frames
// give the same conversation however the connection was cut. Objects are never changed: what differs is a new object.

/**
 * @typedef {object} Conversation
 * @property {string} sessionId
 * @property {string[]} order ids of the messages on the selected branch, oldest first
 * @property {Record<string, object>} messages as in the history, with `timing` and `error` besides
 * @property {string} cursor where the feed continues
 * @property {string|null} older the message before which older ones can be read
 * @property {boolean} stale whether the history must be read again
 * @property {null|"expired"|"deleted"} ended
 * @property {{title: string|null, metadata: object}|null} session
 */

const GROWTH = { chunk: "text", reasoning: "reasoning", refusal: "refusal", tool_call: "tool_call" };

/** The conversation of a page of the history. `before`: what was known, whose timing is kept. */
export function fromHistory(list, before = null) {
  const messages = {};
  for (const one of list.messages) messages[one.message_id] = withKnown(one, before?.messages[one.message_id]);
  return {
    sessionId: list.session_id,
    order: list.messages.map((one) => one.message_id),
    messages,
    cursor: list.cursor,
    older: list.next ?? null,
    stale: false,
    ended: null,
    session: before?.session ?? null,
  };
}

function withKnown(message, known) {
  const timing = known?.timing ?? null;
  return { ...message, timing, error: message.status === "complete" ? null : known?.error ?? null };
}

/** The conversation with an older page of its history in front. */
export function withOlder(conversation, list) {
  const added = list.messages.filter((one) => !(one.message_id in conversation.messages));
  const messages = { ...conversation.messages };
  for (const one of added) messages[one.message_id] = withKnown(one, null);
  const order = [...added.map((one) => one.message_id), ...conversation.order];
  return { ...conversation, messages, order, older: list.next ?? null };
}

/** The conversation after one frame. `id`: the frame's cursor, "" if it has none; `now`: Date.now(). */
export function reduce(conversation, frame, id, now) {
  const next = reduceFrame(conversation, frame, now);
  return id && next.cursor !== id ? { ...next, cursor: id } : next;
}

function reduceFrame(conversation, frame, now) {
  switch (frame.type) {
    case "message":
      return posted(conversation, frame);
    case "queued":
      return requested(conversation, frame);
    case "start":
      return started(conversation, frame, now);
    case "chunk":
    case "reasoning":
    case "refusal":
    case "tool_call":
      return changed(conversation, frame.message_id, (message) => grown(message, frame, now));
    case "complete":
      return changed(conversation, frame.message_id, (message) => completed(message, frame, now));
    case "error":
      return changed(conversation, frame.message_id, (message) => failed(message, frame, now));
    case "removed":
      return removed(conversation, frame);
    case "redacted":
      if (!conversation.messages[frame.message_id]) return conversation;
      return { ...changed(conversation, frame.message_id, (message) => redacted(message, frame)), stale: true };
    case "calls_closed":
      return changed(conversation, frame.message_id, (message) => ({ ...message, calls: "closed" }));
    case "session":
      return { ...conversation, session: { title: frame.title, metadata: frame.metadata } };
    case "branch":
      return frame.message_id === conversation.order.at(-1) ? conversation : { ...conversation, stale: true };
    case "resync":
      return { ...conversation, stale: true };
    case "expired":
    case "deleted":
      return { ...conversation, ended: frame.type };
    default:
      return conversation; // draining concerns the connection; a newer service may send frames that this page ignores
  }
}

function changed(conversation, messageId, change) {
  const message = conversation.messages[messageId];
  if (!message) return conversation; // a reply of another branch
  return { ...conversation, messages: { ...conversation.messages, [messageId]: change(message) } };
}

/** Puts `added` under `parentId` as the end of the selected branch, with what else is under that parent as siblings. */
function placed(conversation, parentId, added) {
  const { order, messages } = conversation;
  const at = parentId === null ? -1 : order.indexOf(parentId);
  const isFirst = parentId === null && (conversation.older === null || order.length === 0);
  if (at < 0 && !isFirst) return { ...conversation, stale: true };
  const replaced = messages[order[at + 1]];
  const siblings = [...(replaced?.siblings ?? []), added.message_id];
  const more = { [added.message_id]: { ...added, siblings } };
  for (const one of siblings) if (messages[one]) more[one] = { ...messages[one], siblings };
  return { ...conversation, order: [...order.slice(0, at + 1), added.message_id], messages: { ...messages, ...more } };
}

function emptyMessage(messageId, role, parentId, status) {
  return {
    message_id: messageId, role, parent_id: parentId, status, content: "", parts: [], created_at: null, siblings: [],
    token_usage: null, duration_us: null, time_to_first_token_us: null, finish_reason: null, finish_detail: "", model: null,
    calls: null, timing: null, error: null,
  };
}

function posted(conversation, frame) {
  if (frame.message_id in conversation.messages) return conversation;
  const message = {
    ...emptyMessage(frame.message_id, frame.role, frame.parent_id, "complete"),
    content: frame.content,
    parts: frame.parts?.length ? frame.parts : [{ type: "text", text: frame.content }],
    created_at: frame.created_at,
  };
  const withMessage = placed(conversation, frame.parent_id, message);
  if (withMessage.stale || !frame.reply_id) return withMessage;
  return placed(withMessage, frame.message_id, emptyMessage(frame.reply_id, "assistant", frame.message_id, "queued"));
}

/** A queued message and its reply were taken out; what was queued behind them moves up. */
function removed(conversation, { message_id: messageId, reply_id: replyId, parent_id: parentId }) {
  const { [messageId]: message, [replyId]: reply, ...messages } = conversation.messages;
  if (!message) return conversation;
  for (const one of Object.values(messages)) {
    if (one.parent_id === replyId) messages[one.message_id] = { ...one, parent_id: parentId };
    else if (one.siblings.includes(messageId)) messages[one.message_id] = { ...one, siblings: one.siblings.filter((id) => id !== messageId) };
  }
  return { ...conversation, messages, order: conversation.order.filter((id) => id !== messageId && id !== replyId) };
}

/** The content of a message, or of one part, is gone; what stands in its place says why. */
function redacted(message, { part, reason_code: reasonCode }) {
  const parts = message.parts.map((one, index) => {
    if (one.type === "redacted" || (part !== null && part !== index)) return one;
    return { type: "redacted", kind: one.type, reason_code: reasonCode };
  });
  const content = parts.filter((one) => one.type === "text").map((one) => one.text).join("");
  return { ...message, parts, content };
}

function requested(conversation, frame) {
  if (frame.message_id in conversation.messages) {
    return changed(conversation, frame.message_id, (message) => ({ ...message, status: "queued" }));
  }
  const reply = emptyMessage(frame.message_id, "assistant", frame.user_message_id, "queued");
  return placed(conversation, frame.user_message_id, reply);
}

function started(conversation, frame, now) {
  let known = conversation;
  if (!(frame.message_id in known.messages)) {
    known = placed(known, frame.user_message_id, emptyMessage(frame.message_id, "assistant", frame.user_message_id, "queued"));
  }
  return changed(known, frame.message_id, (message) => ({
    ...message, status: "streaming", parts: [], content: "", error: null, model: frame.model, finish_reason: null,
    timing: { started_ms: now, first_ms: null, last_ms: null, ended_ms: null, reasoning_ms: null },
  }));
}

function grown(message, frame, now) {
  const index = frame.part ?? 0, type = GROWTH[frame.type], before = message.parts[index];
  const parts = message.parts.slice();
  if (type === "tool_call") {
    const call = before ?? { type, call_id: frame.call_id, name: frame.name, arguments: "" };
    parts[index] = { ...call, arguments: call.arguments + frame.arguments };
  } else {
    parts[index] = { ...(before ?? { type, text: "" }), text: (before?.text ?? "") + frame.content };
  }
  const timing = { ...(message.timing ?? { started_ms: null, ended_ms: null, first_ms: null, reasoning_ms: null }) };
  timing.first_ms ??= now;
  timing.last_ms = now;
  if (type === "reasoning") timing.reasoning_ms = now - timing.first_ms;
  return { ...message, status: "streaming", parts, timing };
}

function textOf(parts) {
  return parts.filter((one) => one.type === "text").map((one) => one.text).join("");
}

function ended(timing, now) {
  return timing && { ...timing, ended_ms: now };
}

function completed(message, frame, now) {
  const isTextOnly = message.parts.every((one) => one.type === "text");
  const parts = isTextOnly && textOf(message.parts) !== frame.full_response
    ? [{ type: "text", text: frame.full_response }]
    : message.parts;
  return {
    ...message, status: "complete", parts, content: frame.full_response, error: null, token_usage: frame.token_usage,
    duration_us: frame.duration_us, time_to_first_token_us: frame.time_to_first_token_us,
    finish_reason: frame.finish_reason, finish_detail: frame.finish_detail, created_at: frame.created_at,
    calls: parts.some((one) => one.type === "tool_call") ? "open" : null, timing: ended(message.timing, now),
  };
}

function failed(message, frame, now) {
  if (frame.status === "unrecorded") return message; // the end follows
  const parts = cutParts(message.parts, frame.length, frame.part_lengths ?? []);
  return {
    ...message, status: frame.status, parts, content: textOf(parts), timing: ended(message.timing, now),
    error: { title: frame.title, detail: frame.detail }, finish_reason: message.finish_reason ?? "error",
  };
}

/** The parts that are kept: `length` code points of the text, or `lengths` code points of each part. */
export function cutParts(parts, length, lengths) {
  if (!lengths.length) {
    const text = textOf(parts), kept = cutText(text, length);
    if (kept === text) return parts;
    return kept ? [{ type: "text", text: kept }] : [];
  }
  return parts.slice(0, lengths.length).map((part, index) => {
    const field = part.type === "tool_call" ? "arguments" : "text";
    return { ...part, [field]: cutText(part[field], lengths[index]) };
  });
}

/** The first `length` code points. A string's own length counts UTF-16 units: an emoji has two. */
export function cutText(text, length) {
  if (text.length <= length) return text;
  let units = 0;
  for (let left = length; left > 0 && units < text.length; left -= 1) units += text.codePointAt(units) > 0xffff ? 2 : 1;
  return text.slice(0, units);
}

/** The reply that is being written or is the next to be, on the selected branch; null if there is none. */
export function runningReply(conversation) {
  const replies = conversation.order.map((id) => conversation.messages[id]).filter((one) => one.role === "assistant");
  return replies.find((one) => one.status === "streaming") ?? replies.find((one) => one.status === "queued") ?? null;
}

/** What the log shows, and the turns that wait behind the running reply: [{message, reply}]. */
export function arrange(conversation) {
  const all = conversation.order.map((id) => conversation.messages[id]);
  const running = runningReply(conversation), at = running ? all.indexOf(running) + 1 : all.length;
  const shown = all.slice(0, at), waiting = [];
  for (let index = at; index < all.length; index += 1) {
    const message = all[index], reply = all[index + 1];
    if (message.role !== "assistant" && reply?.status === "queued") {
      waiting.push({ message, reply });
      index += 1;
    } else {
      shown.push(message);
    }
  }
  return { shown, waiting };
}
