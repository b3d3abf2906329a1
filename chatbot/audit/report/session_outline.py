"""What a report has to know of a session before it writes its messages: counts, recipients, branches. Pure.

Memory: about 300 bytes for each message, and no text.
"""

from collections import Counter
from typing import Any, assert_never

from msgspec import Struct, field

from chatbot.audit.search.session_selection import DESCRIBING_TYPES
from chatbot.holds.hold_state import HoldState, covers
from chatbot.sessions.domain.state import settings_after
from events.catalogue import (
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    LoggedEvent,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MessageWithdrawn,
    MetadataChanged,
    Origin,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplySettings,
    ReplyStarted,
    ReservedEvent,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    SessionRead,
    SessionViewed,
    ToolCallsClosed,
)
from events.record import RecordedEvent
from events.schema.parts import media_of


class SessionOutline(Struct):
    """A session after its events so far. `parents` has the parent of each message, in the order of their events.

    `head` is the end of the selected branch. `sent` counts requests by provider, model, and name of the server, which
    is empty if it is not recorded; `asked` are the first two of replies that have not ended. `erased_requests` are
    those whose content is erased, and `erased_usage` what the erasure kept of them: by model, the replies that were
    completed, and tokens read and written. `hold_ids` are the legal holds that the session is under. `copies` are the
    positions of copied texts of a fork, by message.
    """

    session_id: str
    created_at_us: int
    last_at_us: int = 0
    version: int = 0
    status: str = "active"
    owner: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = {}
    kind: str = ""
    forked_from: Origin | None = None
    settings: ReplySettings = ReplySettings()
    created_settings: ReplySettings = ReplySettings()
    erased_events: int = 0
    erased_requests: int = 0
    redactions: int = 0
    replies: int = 0
    files: set[str] = field(default_factory=set)
    sent: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    erased_usage: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    asked: dict[str, tuple[str, str]] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    head: str | None = None
    copies: dict[str, int] = field(default_factory=dict)
    hold_ids: set[str] = field(default_factory=set)

    def selected_ids(self) -> frozenset[str]:
        """The messages of the selected branch."""
        path: list[str] = []
        message_id = self.head
        while message_id is not None and message_id in self.parents:
            path.append(message_id)
            message_id = self.parents[message_id]
        return frozenset(path)

    def apply(self, recorded: RecordedEvent) -> None:
        """Apply the next event of the session."""
        self.version, self.last_at_us = recorded.version, recorded.recorded_at_us
        if recorded.type in ("session_expired", "session_deleted"):
            self.status = recorded.type.removeprefix("session_")
        if recorded.event is None:
            self.erased_events += 1
            self.erased_requests += recorded.type == "reply_started"
            self.redactions += recorded.type == "message_redacted"
        else:
            self._apply(recorded, recorded.event)

    def note_holds(self, state: HoldState, recorded: RecordedEvent) -> None:
        """Note which holds the session is under after `recorded`, the event that was applied last: a hold on metadata
        is also on sessions that had them earlier.
        """
        if recorded.type in DESCRIBING_TYPES:
            found = [one for one in state.holds.values() if covers(one, self.session_id, self.owner, self.metadata)]
            self.hold_ids.update(one.hold_id for one in found)

    def _apply(self, recorded: RecordedEvent, event: LoggedEvent) -> None:  # noqa: PLR0912  an arm for each event
        match event:
            case SessionCreated():
                self.owner, self.title, self.metadata = event.owner, event.title, event.metadata
                self.kind, self.forked_from = event.kind, event.forked_from
                self.settings = self.created_settings = event.settings
            case MetadataChanged():
                self.title, self.metadata = event.title, event.metadata
                self.settings = settings_after(event, self.created_settings)
            case MessagePosted():
                self._add(event.message_id, event.parent_id)
                self.files |= {one.sha256 for one in media_of(event.parts)}
                self.head = event.reply_id or event.message_id
                if event.reply_id is not None:
                    self._add(event.reply_id, event.message_id)
            case ReplyRequested():
                self._add(event.reply_id, event.parent_id)
                if event.attempt == 1:
                    self.head = event.reply_id
            case MessageWithdrawn():
                self._withdraw(event)
            case ReplyStarted():
                self.asked[event.reply_id] = event.provider, event.model
                self.sent[event.provider, event.model, ""] += 1
            case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                self.replies += 1
                self._end_request(event)
            case MessageRedacted():
                self.redactions += 1
            case BranchSelected():
                self.head = event.message_id
            case HistoryAdopted():
                for message in event.messages:
                    self._add(message.message_id, message.parent_id)
                self.head = event.messages[-1].message_id
            case MessageCopied():
                self.copies[event.message_id] = recorded.position
            case SessionDeleted() | ContentErased():
                self.owner = event.owner
                for used in event.usage:
                    add_usage(self.erased_usage, used.model, (used.replies, used.prompt_tokens, used.completion_tokens))
                self.title, self.metadata, self.settings = None, {}, ReplySettings()
                self.parents, self.head = {}, None
            case (
                SessionAccessed()
                | SessionRead()
                | SessionViewed()
                | SessionExpired()
                | ReplyProgressed()
                | ToolCallsClosed()
                | ReservedEvent()
                | IgnoredEvent()
            ):
                pass
            case _:
                assert_never(event)

    def _end_request(self, event: ReplyEnded) -> None:
        """The server is known once the reply has ended."""
        asked = self.asked.pop(event.reply_id, None)
        if asked is not None and event.server:
            self.sent[*asked, ""] -= 1
            self.sent[*asked, event.server] += 1

    def _add(self, message_id: str, parent_id: str | None) -> None:
        self.parents.setdefault(message_id, parent_id)

    def _withdraw(self, event: MessageWithdrawn) -> None:
        for message_id in (event.message_id, event.reply_id):
            self.parents.pop(message_id, None)
        for message_id, parent_id in self.parents.items():
            if parent_id == event.reply_id:
                self.parents[message_id] = event.parent_id
        if self.head == event.reply_id:
            self.head = event.parent_id


def add_usage(usage: dict[str, tuple[int, int, int]], model: str, added: tuple[int, int, int]) -> None:
    """Add replies, tokens read and tokens written to those of the model."""
    replies, read, written = usage.get(model, (0, 0, 0))
    usage[model] = replies + added[0], read + added[1], written + added[2]
