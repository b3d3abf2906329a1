"""The facts of one session, folded from its events.

One pure fold serves twice: the `sessions` projection stores its result, and the actor that owns the session starts
from that stored result and goes on folding. It holds ids, numbers and times only: texts, titles and metadata stay
in the log, in one place, so that erasing them there erases them.
"""

from msgspec import Struct
from msgspec.structs import replace

from events.catalogue import (
    ACCESS_TYPES,
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    MessagePosted,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
    ReplyStarted,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
)
from events.record import RecordedEvent

NEVER_US = 2**62  # the deadline of a session that does not expire: later than all times, and fits SQLite's integers


class PendingReply(Struct, frozen=True):
    """A reply that is owed and has not started. `version` is that of the event that asked for it, `node` owes it."""

    message_id: str
    reply_id: str
    version: int
    attempt: int = 1
    node: str | None = None


class OpenReply(Struct, frozen=True):
    """A reply that has started and not ended. `version` is that of its reply_started, `node` writes it.

    `names_model`: the model's name is the service's own or a known one, and not what a client made up.
    """

    reply_id: str
    message_id: str
    version: int
    attempt: int = 1
    node: str | None = None
    names_model: bool = True


class Erasure(Struct, frozen=True):
    """The session was deleted for this `reason`, and `node` copies texts that forks read before they are erased."""

    reason: str
    node: str | None = None


class Session(Struct, frozen=True):
    """One session as its events up to `version` (log position `position`) tell it.

    `no` is the position of session_created; `described_at` that of the newest event with metadata and title, 0 when
    they are erased; `head` is the last message of the selected branch, a reply that is still to come included.
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

    @property
    def is_deleted(self) -> bool:
        """Whether it was deleted, though its content may still be there for forks to copy."""
        return self.status == "deleted" or self.erasure is not None

    @property
    def expires_at_us(self) -> int:
        """The deadline; NEVER_US where the timeout is 0."""
        if self.timeout_s == 0:
            return NEVER_US
        return self.accessed_at_us + self.timeout_s * 1_000_000


def node_of(recorded: RecordedEvent) -> str | None:
    """The node that the event names. None where the event was copied from another log: its name is an address that
    somebody else chose, and is never contacted.
    """
    event = recorded.event
    if recorded.metadata.imported is not None:
        return None
    return event.node if isinstance(event, MessagePosted | ReplyRequested | ReplyStarted | SessionExpired) else None


def evolve(session: Session | None, recorded: RecordedEvent) -> Session:
    """The session after one more event of its stream."""
    if session is None:
        return _created(recorded)
    session = replace(
        session,
        version=recorded.version,
        position=recorded.position,
        # Told by type: an erased event has nothing else left, and must fold to the same result.
        accessed_at_us=recorded.recorded_at_us if recorded.type in ACCESS_TYPES else session.accessed_at_us,
    )
    event = recorded.event
    match event:
        case MessagePosted():
            return _posted(session, recorded, event)
        case ReplyRequested():
            return _requested(session, recorded, event)
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
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            return _ended(session, event.reply_id)
        case BranchSelected():
            return replace(session, head=event.message_id)
        case HistoryAdopted():
            return replace(session, head=event.messages[-1].message_id, message_count=len(event.messages))
        case SessionDeleted():
            return _without_content(replace(session, owner=event.owner, timeout_s=0, status="deleted"))
        case ContentErased():
            return _without_content(replace(session, owner=event.owner, timeout_s=event.timeout_s))
        case _:
            return _described_or_expired(session, recorded)


def _created(recorded: RecordedEvent) -> Session:
    event = recorded.event
    created = event if isinstance(event, SessionCreated) else None  # None: erased, and a later event says what is left
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
    )


def _posted(session: Session, recorded: RecordedEvent, event: MessagePosted) -> Session:
    if event.reply_id is None:
        return replace(session, head=event.message_id, message_count=session.message_count + 1)
    waiting = PendingReply(event.message_id, event.reply_id, recorded.version, node=node_of(recorded))
    return replace(
        session,
        head=event.reply_id,
        message_count=session.message_count + 2,
        pending=(*session.pending, waiting),
    )


def _requested(session: Session, recorded: RecordedEvent, event: ReplyRequested) -> Session:
    waiting = PendingReply(event.parent_id, event.reply_id, recorded.version, event.attempt, node_of(recorded))
    # What was interrupted goes before what was asked later.
    place = next((i for i, other in enumerate(session.pending) if other.attempt < event.attempt), len(session.pending))
    session = replace(session, pending=(*session.pending[:place], waiting, *session.pending[place:]))
    if event.attempt > 1:  # the reply is one of the session's messages already
        return session
    return replace(session, head=event.reply_id, message_count=session.message_count + 1)


def _ended(session: Session, reply_id: str) -> Session:
    if session.open_reply is not None and session.open_reply.reply_id == reply_id:
        return replace(session, open_reply=None)
    return replace(session, pending=_without(session.pending, reply_id))  # it ended before it could start


def _described_or_expired(session: Session, recorded: RecordedEvent) -> Session:
    if recorded.type == "metadata_changed" and recorded.event is not None:
        return replace(session, described_at=recorded.position)
    if recorded.type == "session_expired":
        return replace(session, status="expired", erasure=_erasure(recorded) or session.erasure)
    return session


def _erasure(recorded: RecordedEvent) -> Erasure | None:
    event = recorded.event
    if isinstance(event, SessionExpired) and event.erase_reason is not None:
        return Erasure(event.erase_reason, node_of(recorded))
    return None


def _without_content(session: Session) -> Session:
    return replace(session, head=None, message_count=0, open_reply=None, pending=(), described_at=0, erasure=None)


def _without(pending: tuple[PendingReply, ...], reply_id: str) -> tuple[PendingReply, ...]:
    return tuple(waiting for waiting in pending if waiting.reply_id != reply_id)
