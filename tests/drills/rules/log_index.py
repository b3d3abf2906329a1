"""The final log, put in order: each session's events, who asked for them, and what became of each reply."""

from collections import defaultdict
from typing import Any

from msgspec import Struct

from tests.drills.drill_record import LoggedEvent, Operation

RESERVED = frozenset({"keys", "holds"})  # streams that are no sessions
REPLY_REQUESTS = ("message_posted", "reply_requested")
REPLY_STATUS = {
    "reply_completed": "complete",
    "reply_failed": "failed",
    "reply_cancelled": "cancelled",
    "reply_interrupted": "interrupted",
}


class ReplyHistory(Struct):
    """What the log tells of one reply."""

    session_id: str
    owed: list[int] = []  # versions of the events that promise it: one for each attempt
    started: list[int] = []
    progressed: list[LoggedEvent] = []
    ended: list[LoggedEvent] = []

    @property
    def end(self) -> LoggedEvent | None:
        return self.ended[-1] if self.ended else None

    @property
    def text(self) -> str | None:
        """As it stands for ever; None while it is open."""
        return None if self.end is None or self.end.data is None else self.end.data.get("content", "")

    def end_at(self, version: int) -> LoggedEvent | None:
        """How it stands ended at `version`; None where it is open then, perhaps for another attempt."""
        ended = [one for one in self.ended if one.version <= version]
        is_open = not ended or self._last(self.owed, version) > ended[-1].version
        return None if is_open else ended[-1]

    def status_at(self, version: int) -> str:
        end = self.end_at(version)
        if end is not None:
            return REPLY_STATUS[end.type]
        return "queued" if self._last(self.owed, version) > self._last(self.started, version) else "streaming"

    def text_at(self, version: int) -> str:
        """What is on record of it at `version`: nothing while it waits for another attempt."""
        end = self.end_at(version)
        if end is not None:
            return str((end.data or {}).get("content", ""))
        begun = max(self._last(self.owed, version), self._last(self.started, version))
        parts = [one for one in self.progressed if begun < one.version <= version]
        return "".join((one.data or {})["text"] for one in parts)

    def _last(self, versions: list[int], version: int) -> int:
        return max((one for one in versions if one <= version), default=0)


class LogIndex:
    """Indexes over a log. An event whose content is erased is known by type and version only.

    `adopted` is what forks have inherited, by session and message; `copied` the copies that were made of such texts.
    """

    def __init__(self, log: list[LoggedEvent]) -> None:
        self.log = log
        self.reserved: dict[str, list[LoggedEvent]] = defaultdict(list)
        self.adopted: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.copied: dict[tuple[str, str], LoggedEvent] = {}
        self.sessions: dict[str, list[LoggedEvent]] = defaultdict(list)
        self.by_key: dict[str, list[LoggedEvent]] = defaultdict(list)
        self.by_text: dict[str, list[LoggedEvent]] = defaultdict(list)  # a message's content, a title
        self.posted: dict[str, LoggedEvent] = {}
        self.replies: dict[str, ReplyHistory] = {}
        for one in log:
            if one.session_id in RESERVED:
                self.reserved[one.session_id].append(one)
                continue
            self.sessions[one.session_id].append(one)
            if one.data is not None:
                self._index(one, one.data)

    def _index(self, one: LoggedEvent, data: dict[str, Any]) -> None:
        if key := data.get("idempotency_key"):
            self.by_key[str(key)].append(one)
        text = data.get("content" if one.type == "message_posted" else "title")
        if text and not data.get("forked_from"):  # a fork has the title of its origin
            self.by_text[str(text)].append(one)
        if one.type == "history_adopted":
            self.adopted[one.session_id] = {message["message_id"]: message for message in data["messages"]}
        elif one.type == "message_copied":
            self.copied[one.session_id, data["message_id"]] = one
        elif one.type == "message_posted":
            self.posted[str(data["message_id"])] = one
        reply_id = data.get("reply_id")
        if reply_id is None:
            return
        reply = self.replies.setdefault(str(reply_id), ReplyHistory(one.session_id))
        if one.type in REPLY_REQUESTS:
            reply.owed.append(one.version)
        elif one.type == "reply_started":
            reply.started.append(one.version)
        elif one.type == "reply_progressed":
            reply.progressed.append(one)
        elif one.type in REPLY_STATUS:
            reply.ended.append(one)

    def event(self, session_id: str, version: int) -> LoggedEvent | None:
        """The event at that version. Versions are checked to be gapless elsewhere."""
        events = self.sessions.get(session_id, [])
        return events[version - 1] if 0 < version <= len(events) else None

    def is_deleted(self, session_id: str) -> bool:
        return any(one.type == "session_deleted" for one in self.sessions.get(session_id, []))

    def expiry_of(self, session_id: str) -> LoggedEvent | None:
        """The end of its time: the event after which nobody gets at it."""
        ends = (one for one in self.sessions.get(session_id, []) if one.type == "session_expired")
        return next(ends, None)

    def deadline_of(self, session_id: str) -> float | None:
        """When a session that has expired was to expire, in Unix seconds."""
        expiry = self.expiry_of(session_id)
        if expiry is None:
            return None
        return float((expiry.data or {}).get("deadline_us", expiry.recorded_s * 1e6)) / 1e6

    def is_gone(self, session_id: str) -> bool:
        return self.is_deleted(session_id) or self.expiry_of(session_id) is not None

    def owner_of(self, session_id: str) -> str | None:
        """The name of the key that has made it; None where that is erased, or there are no keys."""
        owner = (self.sessions[session_id][0].data or {}).get("owner")
        return None if owner is None else str(owner)

    def adopted_text(self, session_id: str, message_id: str) -> str | None:
        """Of a message that a fork has inherited; None where it is lost."""
        copied = self.copied.get((session_id, message_id))
        place = int(self.adopted[session_id][message_id]["position"])
        source = copied or (self.log[place - 1] if place <= len(self.log) else None)
        return None if source is None or source.data is None else str(source.data.get("content", ""))

    def effect_of(self, operation: Operation) -> LoggedEvent | None:
        """The event that `operation` caused, where it can be told from the others."""
        if operation.kind == "delete":
            gone = [one for one in self.sessions.get(operation.session_id, []) if one.type == "session_deleted"]
            return gone[0] if gone else None
        if operation.key is not None and (found := self.by_key.get(operation.key)):
            return found[0]
        if operation.kind == "patch" and (found := self.by_text.get(operation.sent)):
            return found[0]
        return None
