"""The final log, put in order: each session's events, who asked for them, and what became of each reply."""

from collections import defaultdict

from msgspec import Struct

from tests.drills.drill_record import LoggedEvent, Operation

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

    def open_status_at(self, version: int) -> str:
        """Of a reply that has not ended at `version`."""
        owed, begun = (max((one for one in of if one <= version), default=0) for of in (self.owed, self.started))
        return "queued" if owed > begun else "streaming"

    def text_at(self, version: int) -> str:
        """What is on record of it at `version`."""
        if self.end is not None and self.end.version <= version:
            return self.text or ""
        begun = max((one for one in self.started if one <= version), default=0)
        parts = [one for one in self.progressed if begun < one.version <= version]
        return "".join((one.data or {})["text"] for one in parts)


class LogIndex:
    """Indexes over a log. An event whose content is erased is known by type and version only."""

    def __init__(self, log: list[LoggedEvent]) -> None:
        self.log = log
        self.sessions: dict[str, list[LoggedEvent]] = defaultdict(list)
        self.by_key: dict[str, list[LoggedEvent]] = defaultdict(list)
        self.by_text: dict[str, list[LoggedEvent]] = defaultdict(list)  # a message's content, a title
        self.posted: dict[str, LoggedEvent] = {}
        self.replies: dict[str, ReplyHistory] = {}
        for one in log:
            self.sessions[one.session_id].append(one)
            if one.data is not None:
                self._index(one, one.data)

    def _index(self, one: LoggedEvent, data: dict[str, object]) -> None:
        if key := data.get("idempotency_key"):
            self.by_key[str(key)].append(one)
        if text := data.get("content" if one.type == "message_posted" else "title"):
            self.by_text[str(text)].append(one)
        if one.type == "message_posted":
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
