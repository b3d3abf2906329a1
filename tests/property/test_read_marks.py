"""Whatever happens in a session, it is unread exactly if it has a reply that no client has shown."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.sessions.domain.commands import SERVICE, MarkRead
from chatbot.sessions.domain.decide import decide
from chatbot.sessions.domain.state import Rules, State
from events.catalogue import (
    BranchSelected,
    MetadataChanged,
    ReplyCancelled,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    SessionAccessed,
    SessionRead,
)
from projections.folds.session import Session, evolve
from tests.support.log.event_builders import completed, created, emptied, posted, started
from tests.support.log.memory_log import MemoryLog
from tests.support.nightly import scaled

RULES = Rules("node", "midm", "small", max_context_messages=20, pending_max=8, access_resolution_us=1)
ENDS: dict[str, Any] = {
    "complete": completed,
    "fail": lambda reply_id: ReplyFailed(reply_id, "", "llm_failed"),
    "interrupt": lambda reply_id: ReplyInterrupted(reply_id, "", "crash"),
    "cancel": lambda reply_id: ReplyCancelled(reply_id, "", "client"),
}
VERBS = ("post", "start", *ENDS, "complete", "progress", "rename", "access", "select", "empty", "read", "read", "mark")
DEEDS = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 6)), max_size=60)


class Shown:
    """A session's history, and what was shown of it, by a reckoning that knows no fold."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.session = self.note(created())
        self.ids = 0
        self.unseen: set[int] = set()  # versions at which replies ended that nobody has shown

    def note(self, event: Any) -> Session:
        (recorded,) = self.log.record("s", event)
        self.session = evolve(getattr(self, "session", None), recorded)
        return self.session

    def act(self, verb: str, choice: int) -> None:
        session = self.session
        match verb:
            case "post":
                self.ids += 1
                self.note(posted(f"m{self.ids}", session.head, f"r{self.ids}"))
                self.unseen = set()
            case "start" if session.pending and session.open_reply is None:
                self.note(started(session.pending[0].reply_id, session.pending[0].message_id))
            case "complete" | "fail" | "interrupt" | "cancel" if session.open_reply is not None:
                self.note(ENDS[verb](session.open_reply.reply_id))
                self.unseen |= {self.session.version} if verb != "cancel" else set()
            case "progress" if session.open_reply is not None:
                self.note(ReplyProgressed(session.open_reply.reply_id, 0, "words"))
            case "rename":
                self.note(MetadataChanged({}, f"T{choice}", pinned=session.pinned))
            case "access":
                self.note(SessionAccessed())
            case "select" if session.head is not None:
                self.note(BranchSelected(session.head))
            case "empty" if not session.pending and session.open_reply is None:
                self.note(emptied())
                self.unseen = set()
            case "read":
                self.read(session.version - choice)
            case "mark":
                self.read(None if choice % 2 else session.version + choice)
            case _:  # it cannot happen now
                pass

    def read(self, version: int | None) -> None:
        """A client has shown the session as of this version; None: as it is."""
        decided = decide(State(self.session, {}), MarkRead(version), 0, RULES, SERVICE, "s")
        assert decided.rejection is None
        shown = self.session.version if version is None else version
        # A client has shown all of a version or nothing, so only the newest reply decides.
        is_read = bool(self.unseen) and max(self.unseen) <= shown
        assert len(decided.events) == is_read, "an event is recorded exactly where something becomes read"
        for event in decided.events:
            assert isinstance(event, SessionRead)
            assert event.version <= self.session.version
            accessed_at_us = self.session.accessed_at_us
            self.note(event)
            assert self.session.accessed_at_us == accessed_at_us
            self.unseen = set()


@settings(max_examples=scaled(200), deadline=None)
@given(deeds=DEEDS)
def test_a_session_is_unread_exactly_if_a_reply_has_not_been_shown(deeds: list[tuple[str, int]]) -> None:
    shown = Shown()
    for verb, choice in deeds:
        shown.act(verb, choice)
        assert (shown.session.unread_at > 0) == bool(shown.unseen)
        assert shown.session.unread_at in ({0} if not shown.unseen else {max(shown.unseen)})
