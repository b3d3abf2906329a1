"""The read model of one session: a pure fold over its events.

The fold is used twice: the `sessions` projection stores its result, and the actor that owns the session starts from the
stored result and folds on. It contains ids, numbers and times only: texts, titles and metadata stay in the log, so that
erasing them there erases them everywhere.
"""

from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from events.catalogue import (
    ACCESS_TYPES,
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MessageWithdrawn,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
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

_encode = msgspec.json.Encoder().encode

_NAMING_NODE = MessagePosted | ReplyStarted | ReplyRequested | SessionExpired
NEVER_US = 2**62  # the deadline of a session that does not expire: later than all times, and fits SQLite's integers


class PendingReply(Struct, frozen=True):
    """A reply that is queued. `version` is that of the event that requested it; `node` must generate it."""

    message_id: str
    reply_id: str
    version: int
    attempt: int = 1
    node: str | None = None


class OpenReply(Struct, frozen=True):
    """A reply that has started and not ended. `version` is that of its reply_started; `node` generates it.

    `names_model`: the model's name is the service's own or a known one, not an arbitrary one of a client.
    """

    reply_id: str
    message_id: str
    version: int
    attempt: int = 1
    node: str | None = None
    names_model: bool = True


class Erasure(Struct, frozen=True):
    """The session was deleted for this `reason`; before the erasure, `node` copies the texts that forks read."""

    reason: str
    node: str | None = None


class Session(Struct, frozen=True):
    """One session after its events up to `version` (log position `position`).

    `no` is the position of session_created; `described_at` that of the newest event with metadata and title, 0 if they
    are erased; `head` is the last message of the selected branch, which may be a queued reply. `changed_at` is the
    position of the newest event that clients see in lists of sessions. `unread_at` is the version at which the newest
    reply ended, if no client has marked it as read; 0: nothing is unread. `kind` is as in session_created;
    `recorded_bytes` of sessions of other kinds than conversations are those of their events, with their files.
    """

    no: int
    session_id: str
    owner: str | None
    timeout_s: int
    created_at_us: int
    accessed_at_us: int
    version: int
    position: int
    described_at: int
    status: str = "active"
    head: str | None = None
    message_count: int = 0
    open_reply: OpenReply | None = None
    pending: tuple[PendingReply, ...] = ()
    erasure: Erasure | None = None
    changed_at: int = 0
    unread_at: int = 0
    pinned: bool = False
    kind: str = ""
    recorded_bytes: int = 0

    @property
    def is_deleted(self) -> bool:
        """Whether it was deleted, even if its content is not erased yet."""
        return self.status == "deleted" or self.erasure is not None

    @property
    def is_busy(self) -> bool:
        """Whether a reply runs or waits."""
        return self.open_reply is not None or bool(self.pending)

    @property
    def expires_at_us(self) -> int:
        """The deadline; NEVER_US where the timeout is 0."""
        if self.timeout_s == 0:
            return NEVER_US
        return self.accessed_at_us + self.timeout_s * 1_000_000


def node_of(recorded: RecordedEvent) -> str | None:
    """The node that the event names. None if the event was imported from another log: nodes never contact an address
    that another installation chose.
    """
    event = recorded.event
    if recorded.metadata.imported is not None:
        return None
    return event.node if isinstance(event, _NAMING_NODE) else None


def evolve(session: Session | None, recorded: RecordedEvent) -> Session:  # noqa: PLR0911, PLR0912  an arm for each event
    """The session after one more event of its stream."""
    if session is None:
        return _created(recorded)
    session = replace(
        session,
        version=recorded.version,
        position=recorded.position,
        # By type: an erased event has nothing else left, and must fold to the same result.
        accessed_at_us=recorded.recorded_at_us if recorded.type in ACCESS_TYPES else session.accessed_at_us,
        changed_at=session.changed_at if recorded.type == "reply_progressed" else recorded.position,
        recorded_bytes=session.recorded_bytes + _bytes_of(recorded) if session.kind else 0,
    )
    event = recorded.event
    match event:  # the most frequent first: a pattern that does not match costs as much as three function calls
        case MessagePosted():
            return _posted(session, recorded, event)
        case ReplyStarted():
            opened = OpenReply(
                event.reply_id,
                event.parent_id,
                recorded.version,
                event.attempt,
                node_of(recorded),
                names_model=event.parameters.model is None or event.counted_as is not None,
            )
            return replace(session, open_reply=opened, pending=_without(session.pending, event.reply_id))
        case ReplyCompleted() | ReplyFailed() | ReplyInterrupted():
            return _ended(session, event.reply_id, unread_at=recorded.version)
        case ReplyProgressed():
            return session
        case ReplyCancelled():  # by somebody who has seen it
            return _ended(session, event.reply_id, session.unread_at)
        case ReplyRequested():
            return _requested(session, recorded, event)
        case SessionRead():
            return replace(session, unread_at=0) if event.version >= session.unread_at else session
        case MessageWithdrawn():
            return _withdrawn(session, event)
        case BranchSelected():
            return replace(session, head=event.message_id)
        case HistoryAdopted():
            return replace(session, head=event.messages[-1].message_id, message_count=len(event.messages))
        case SessionDeleted():
            return _without_content(replace(session, owner=event.owner, timeout_s=0, status="deleted"), event.kind)
        case ContentErased():
            return _without_content(replace(session, owner=event.owner, timeout_s=event.timeout_s))
        case MetadataChanged():
            return replace(session, described_at=recorded.position, pinned=event.pinned)
        case SessionExpired():
            erasure = session.erasure
            if event.erase_reason is not None:
                erasure = Erasure(event.erase_reason, node_of(recorded))
            return replace(session, status="expired", erasure=erasure)
        case None:  # erased: its type is what is left
            return replace(session, status="expired") if recorded.type == "session_expired" else session
        case (
            SessionCreated()
            | SessionAccessed()
            | SessionViewed()
            | ToolCallsClosed()
            | MessageCopied()
            | MessageRedacted()
            | ReservedEvent()
            | IgnoredEvent()
        ):
            return session
        case _:
            assert_never(event)


def _created(recorded: RecordedEvent) -> Session:
    event = recorded.event
    created = event if isinstance(event, SessionCreated) else None  # None: erased; the erasing event has what is left
    return Session(
        no=recorded.position,
        session_id=recorded.stream_id,
        owner=created.owner if created else None,
        timeout_s=created.timeout_s if created else 0,
        created_at_us=recorded.recorded_at_us,
        accessed_at_us=recorded.recorded_at_us,
        version=recorded.version,
        position=recorded.position,
        described_at=recorded.position if created else 0,
        changed_at=recorded.position,
        kind=created.kind if created else "",
        recorded_bytes=_bytes_of(recorded) if created and created.kind else 0,
    )


def _bytes_of(recorded: RecordedEvent) -> int:
    """Of an event's JSON and of the files that its message refers to. Checkpoints do not count: the end of their reply
    has the whole text.
    """
    event = recorded.event
    if event is None or isinstance(event, ReplyProgressed):
        return 0
    files = media_of(event.parts) if isinstance(event, MessagePosted) and event.parts else ()
    return len(_encode(event)) + sum(file.bytes for file in files)


def _posted(session: Session, recorded: RecordedEvent, event: MessagePosted) -> Session:
    if event.reply_id is None:
        return replace(session, head=event.message_id, message_count=session.message_count + 1, unread_at=0)
    waiting = PendingReply(event.message_id, event.reply_id, recorded.version, node=node_of(recorded))
    return replace(
        session,
        head=event.reply_id,
        message_count=session.message_count + 2,
        pending=(*session.pending, waiting),
        unread_at=0,  # a client that posts has shown what was there
    )


def _withdrawn(session: Session, event: MessageWithdrawn) -> Session:
    return replace(
        session,
        head=event.parent_id if session.head == event.reply_id else session.head,
        message_count=session.message_count - 2,
        pending=_without(session.pending, event.reply_id),
    )


def _requested(session: Session, recorded: RecordedEvent, event: ReplyRequested) -> Session:
    waiting = PendingReply(event.parent_id, event.reply_id, recorded.version, event.attempt, node_of(recorded))
    # A reply that is retried goes before those that were requested later.
    index = next((i for i, other in enumerate(session.pending) if other.attempt < event.attempt), len(session.pending))
    session = replace(session, pending=(*session.pending[:index], waiting, *session.pending[index:]))
    if event.attempt > 1:  # the reply is counted already
        return session
    return replace(session, head=event.reply_id, message_count=session.message_count + 1)


def _ended(session: Session, reply_id: str, unread_at: int) -> Session:
    if session.open_reply is not None and session.open_reply.reply_id == reply_id:
        return replace(session, open_reply=None, unread_at=unread_at)
    pending = _without(session.pending, reply_id)  # it ended before it could start
    return replace(session, pending=pending, unread_at=unread_at)


def _without_content(session: Session, kind: str = "") -> Session:
    return replace(
        session,
        head=None,
        message_count=0,
        open_reply=None,
        pending=(),
        described_at=0,
        erasure=None,
        unread_at=0,
        pinned=False,
        kind=kind,
        recorded_bytes=0,
    )


def _without(pending: tuple[PendingReply, ...], reply_id: str) -> tuple[PendingReply, ...]:
    return tuple([waiting for waiting in pending if waiting.reply_id != reply_id])
