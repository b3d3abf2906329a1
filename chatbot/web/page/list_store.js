// The list of conversations as data. Pure: the frames of the stream of changes, one by one, give the list.

/**
 * @typedef {object} SessionList
 * @property {Record<string, object>} sessions by id, as in GET /api/sessions, with `activity` besides
 * @property {string|null} next the cursor of the next page, null at the end
 * @property {boolean} stale whether the list must be read again
 */

export const EMPTY_LIST = { sessions: {}, next: null, stale: false };

/** The list with a page of GET /api/sessions. `isFirst`: in place of what was known. */
export function withPage(list, page, isFirst) {
  const sessions = isFirst ? {} : { ...list.sessions };
  for (const one of page.sessions) sessions[one.session_id] = withActivity(one, isFirst ? undefined : sessions[one.session_id]);
  return { sessions, next: page.next ?? null, stale: false };
}

export function withSession(list, session) {
  const sessions = { ...list.sessions, [session.session_id]: withActivity(session, list.sessions[session.session_id]) };
  return { ...list, sessions };
}

export function withoutSession(list, sessionId) {
  if (!(sessionId in list.sessions)) return list;
  const { [sessionId]: _, ...sessions } = list.sessions;
  return { ...list, sessions };
}

export function reduceList(list, frame) {
  switch (frame.type) {
    case "session":
      return withSession(list, frame.session);
    case "gone":
      return withoutSession(list, frame.session_id);
    case "resync":
      return { ...list, stale: true };
    default:
      return list;
  }
}

/**
 * `activity` orders the list: the time of the last message. Opening a conversation counts as an access, too, but one
 * that is looked at must not jump to the top under the reader's hand.
 */
function withActivity(session, known) {
  const isSame = known && (known.preview?.message_id ?? null) === (session.preview?.message_id ?? null);
  return { ...known, ...session, activity: isSame ? known.activity : session.last_accessed };
}

/** The shown conversations in groups: [{name, sessions}], the latest first. `hidden`: ids to leave out. */
export function grouped(list, hidden, now) {
  const groups = { pinned: [], today: [], yesterday: [], week: [], older: [] };
  const midnight = new Date(now).setHours(0, 0, 0, 0), day = 86_400_000;
  const all = Object.values(list.sessions).filter((one) => !hidden.has(one.session_id) && one.status !== "expired");
  all.sort((a, b) => Date.parse(b.activity) - Date.parse(a.activity) || (a.session_id < b.session_id ? 1 : -1));
  for (const one of all) {
    const age = midnight - Date.parse(one.activity);
    const name = one.pinned ? "pinned" : age <= 0 ? "today" : age <= day ? "yesterday" : age <= 6 * day ? "week" : "older";
    groups[name].push(one);
  }
  return Object.entries(groups).filter(([, sessions]) => sessions.length).map(([name, sessions]) => ({ name, sessions }));
}

/** What a conversation is called: its title, else one made from its newest message, else null. */
export function nameOf(session) {
  return session?.title || (session && titleFrom(previewOf(session))) || null;
}

/** The preview without the marks of Markdown. */
export function previewOf(session) {
  return (session.preview?.text ?? "").replace(/(^|\s)(#{1,6}|>|[-*+]) (?=\S)/g, "$1").replace(/\*\*|__|`+|\$\$/g, "");
}

/** The title of a fork of a conversation called `title`, which the service gives the same one: "Title (2)". */
export function titleOfFork(title, taken) {
  const stem = title.replace(/ \(\d+\)$/, "");
  const names = Array.from({ length: taken.length + 1 }, (_, index) => `${stem} (${index + 2})`);
  return names.find((one) => !taken.includes(one));
}

/** A title made from a message: its first line with words, cut at a word. */
export function titleFrom(text, max = 60) {
  const line = text.split("\n").map((one) => one.replace(/^[#>*\-\s`]+/, "").trim()).find((one) => one) ?? "";
  const points = [...line];
  if (points.length <= max) return line;
  const cut = points.slice(0, max).join(""), space = cut.lastIndexOf(" ");
  return `${space > max / 2 ? cut.slice(0, space) : cut}…`;
}
