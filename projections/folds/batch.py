"""Fold a batch of events into changes of the tables. Pure: no I/O, no clock.

The result for an erased session must be the same whether its events were folded before their erasure or are read
without content in a rebuild. Hence two rules: an erased event contributes only its envelope, and an erasing event
replaces everything that its session contributed before by the totals in the event itself.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from operator import add
from typing import assert_never

from msgspec import Struct, field
from msgspec.structs import astuple

from events.catalogue import (
    SCHEMA_VERSIONS,
    SESSION_TYPES,
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
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
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
    UsageTotal,
)
from events.record import RecordedEvent
from events.schema.parts import call_ids_of
from projections.folds.blind_index import compute_key_label, compute_labels
from projections.folds.message import (
    ANSWERED,
    CLOSED,
    COMPLETE,
    ENDINGS,
    OPEN,
    OTHER_MODEL,
    QUEUED,
    STREAMING,
    MessageUpdate,
    NewMessage,
    merge_update,
)
from projections.folds.session import Session, evolve

_DAY_US = 86_400_000_000
_NO_USAGE = (0,) * 5  # the numbers of a UsageTotal

# Events that change more than their session's row. Most events of a log are checkpoints of replies, which do not.
_TYPES_WITHOUT_CHANGES = frozenset({"reply_progressed", "session_expired", "session_read", "session_viewed"})
_TYPES_WITH_CHANGES = frozenset(SCHEMA_VERSIONS) - _TYPES_WITHOUT_CHANGES

ROWS_PER_EVENT_MAX = 1 << 20  # rows that one event may create, with consecutive numbers below the next event's


class SessionChanges(Struct):
    """The changes of one batch to one session and its messages.

    `before` is None for a session that is not in the tables yet. `erased`: its rows are deleted before the other
    changes are applied. `labels` is None if they do not change. `moves` are the new positions of texts, `calls` the new
    states of tool calls, by reply; `keys` are labels of idempotency keys, each with the position of its event.
    `withdrawn` messages are taken out of the tree after all other changes.
    """

    before: Session | None
    session: Session
    erased: bool = False
    erased_usage: tuple[UsageTotal, ...] = ()
    labels: tuple[int, ...] | None = None
    inserts: dict[str, NewMessage] = field(default_factory=dict)
    updates: dict[str, MessageUpdate] = field(default_factory=dict)
    moves: dict[str, int] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)
    keys: list[tuple[int, int]] = field(default_factory=list)
    withdrawn: list[MessageWithdrawn] = field(default_factory=list)

    @property
    def is_unlisted(self) -> bool:
        """Whether lists of sessions show nothing of the change: a running reply has grown."""
        return self.before is not None and self.before.changed_at == self.session.changed_at


class Changes(Struct, frozen=True):
    """The changes of one batch to the tables. `counts` by status and `usage` are differences to add."""

    sessions: tuple[SessionChanges, ...]
    counts: dict[str, int]
    usage: tuple[tuple[str, UsageTotal], ...]


def fold(batch: Iterable[RecordedEvent], states: Mapping[str, Session], label_key: bytes) -> Changes:
    """The changes of `batch`. `states` has the stored session of every stream that began before the batch."""
    changed: dict[str, SessionChanges] = {}
    for recorded in batch:
        changes = changed.get(recorded.stream_id)
        if changes is None:
            before = states.get(recorded.stream_id)
            if before is None and recorded.type not in SESSION_TYPES:
                continue  # of a stream that is no session's
            session = evolve(before, recorded)
            changes = changed[recorded.stream_id] = SessionChanges(before, session)
            earlier = before or session
        else:
            earlier, changes.session = changes.session, evolve(changes.session, recorded)
        if recorded.type in _TYPES_WITH_CHANGES and recorded.event is not None:
            _collect_changes(changes, earlier, recorded, label_key)
    sessions = tuple(changed.values())
    return Changes(sessions, _count_changes(sessions), _usage_changes(sessions))


def _collect_changes(  # noqa: PLR0912  an arm for each event
    changes: SessionChanges, earlier: Session, recorded: RecordedEvent, label_key: bytes
) -> None:
    """Add what `recorded` changes besides its session's row; the session was `earlier` before it."""
    event = recorded.event
    key = key_of(event)
    if key is not None:
        changes.keys.append((compute_key_label(label_key, key), recorded.position))
    match event:
        case MessagePosted():
            _post(changes, recorded, event)
        case ReplyRequested():
            _request(changes, recorded, event)
        case MessageWithdrawn():
            changes.withdrawn.append(event)
        case HistoryAdopted():
            _adopt(changes, recorded, event)
        case MessageCopied():
            _move_text(changes, event.message_id, recorded.position)
        case ToolCallsClosed():
            _settle_calls(changes, event.reply_id, CLOSED)
        case ReplyStarted():
            _start(changes, earlier, recorded, event)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            if _is_open(earlier, event.reply_id):
                _update(changes, event.reply_id, _ending(earlier, recorded, event))
        case SessionCreated() | MetadataChanged():
            changes.labels = compute_labels(label_key, event.metadata)
        case SessionDeleted() | ContentErased():
            changes.erased, changes.erased_usage, changes.labels = True, event.usage, ()
            changes.inserts, changes.updates, changes.moves, changes.calls, changes.keys = {}, {}, {}, {}, []
            changes.withdrawn = []
        case (
            SessionAccessed()
            | SessionRead()
            | SessionViewed()
            | SessionExpired()
            | ReplyProgressed()
            | BranchSelected()
            | MessageRedacted()
            | ReservedEvent()
            | IgnoredEvent()
            | None
        ):
            pass
        case _:
            assert_never(event)


def _post(changes: SessionChanges, recorded: RecordedEvent, event: MessagePosted) -> None:
    message = _insert(changes, recorded, event.message_id, event.parent_id)
    message.role, message.status, message.position = event.role, COMPLETE, recorded.position
    if event.imported and event.parts and call_ids_of(event.parts):
        message.calls = CLOSED  # this service did not make them; the results may follow
    if event.reply_id is not None:
        _insert(changes, recorded, event.reply_id, event.message_id).no += 1
    if event.role == "tool" and event.parent_id is not None:
        _settle_calls(changes, event.parent_id, ANSWERED)


def _settle_calls(changes: SessionChanges, reply_id: str, calls: str) -> None:
    """The tool calls of a reply are no longer open. A message without calls keeps none."""
    known = changes.inserts.get(reply_id) or changes.updates.get(reply_id)
    if known is None:
        changes.calls[reply_id] = calls
    elif known.calls is not None:
        known.calls = calls


def _request(changes: SessionChanges, recorded: RecordedEvent, event: ReplyRequested) -> None:
    if event.attempt == 1:
        _insert(changes, recorded, event.reply_id, event.parent_id)
    else:
        _update(changes, event.reply_id, MessageUpdate(QUEUED, 0, recorded.version))


def _adopt(changes: SessionChanges, recorded: RecordedEvent, event: HistoryAdopted) -> None:
    for index, adopted in enumerate(event.messages):
        message = _insert(changes, recorded, adopted.message_id, adopted.parent_id)
        message.no += index
        message.role, message.status, message.position = adopted.role, adopted.status, adopted.position
        message.created_at_us, message.model, message.calls = adopted.created_at_us, adopted.model, adopted.calls


def _move_text(changes: SessionChanges, message_id: str, position: int) -> None:
    """The text of a message is now in another event."""
    if message_id in changes.inserts:
        changes.inserts[message_id].position = position
    else:
        changes.moves[message_id] = position


def key_of(event: LoggedEvent | None) -> str | None:
    """The idempotency key of the request that caused `event`; None if it had none."""
    return getattr(event, "idempotency_key", None)


def _start(changes: SessionChanges, earlier: Session, recorded: RecordedEvent, event: ReplyStarted) -> None:
    if not _is_open(earlier, event.reply_id):  # a reply without a recorded request: old logs contain such
        _insert(changes, recorded, event.reply_id, event.parent_id)
    model = event.model if event.parameters.model is None else event.counted_as or OTHER_MODEL
    started = MessageUpdate(STREAMING, 0, recorded.version, recorded.recorded_at_us, model)
    _update(changes, event.reply_id, started)


def _insert(changes: SessionChanges, recorded: RecordedEvent, message_id: str, parent_id: str | None) -> NewMessage:
    """A row for a queued reply. An id that occurs twice keeps its first row, here as in the table."""
    depth = _depth(changes.inserts, parent_id)
    no, at_us = ROWS_PER_EVENT_MAX * recorded.position, recorded.recorded_at_us
    message = NewMessage(no, message_id, parent_id, depth, "assistant", QUEUED, 0, recorded.version, at_us)
    changes.inserts.setdefault(message_id, message)
    return message


def _depth(inserts: Mapping[str, NewMessage], parent_id: str | None) -> int | None:
    """1 for a root; None if the parent is of an earlier batch: then the table has its depth."""
    if parent_id is None:
        return 1
    parent = inserts.get(parent_id)
    return parent.depth + 1 if parent is not None and parent.depth is not None else None


def _ending(earlier: Session, recorded: RecordedEvent, event: ReplyEnded) -> MessageUpdate:
    ended = MessageUpdate(status=ENDINGS[recorded.type], position=recorded.position, version=recorded.version)
    usage = event.usage
    if isinstance(event, ReplyCompleted) or usage is not None:
        running = earlier.open_reply
        names_model = running is not None and running.reply_id == event.reply_id and running.names_model
        ended.model = (event.model if names_model else event.counted_as) or OTHER_MODEL
        ended.day = day_of(recorded.recorded_at_us)
    if usage is not None:
        ended.prompt_tokens, ended.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        ended.reasoning_tokens, ended.cached_tokens = usage.reasoning_tokens, usage.cached_tokens
    if isinstance(event, ReplyCompleted) and event.parts and call_ids_of(event.parts):
        ended.calls = OPEN
    return ended


def _is_open(session: Session, reply_id: str) -> bool:
    """Whether this reply is running or waiting, so that its row exists and has not ended."""
    if session.open_reply is not None and session.open_reply.reply_id == reply_id:
        return True
    return any(waiting.reply_id == reply_id for waiting in session.pending)


def _update(changes: SessionChanges, message_id: str, update: MessageUpdate) -> None:
    known = changes.inserts.get(message_id) or changes.updates.get(message_id)
    if known is None:
        changes.updates[message_id] = update
    else:
        merge_update(known, update)


def _count_changes(sessions: Iterable[SessionChanges]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for changes in sessions:
        if changes.before is not None:
            counts[changes.before.status] = counts.get(changes.before.status, 0) - 1
        counts[changes.session.status] = counts.get(changes.session.status, 0) + 1
    return {status: n for status, n in counts.items() if n}


def _usage_changes(sessions: Iterable[SessionChanges]) -> tuple[tuple[str, UsageTotal], ...]:
    """What to add to `usage`, by owner: replies completed in this batch, and the totals in erasing events."""
    totals: dict[tuple[str, str, str], tuple[int, ...]] = {}
    for changes in sessions:
        owner = changes.session.owner or ""
        for used in (*completed_usage(changes), *changes.erased_usage):
            key = (owner, used.day, used.model)
            totals[key] = tuple(map(add, totals.get(key, _NO_USAGE), astuple(used)[2:]))
    return tuple((owner, UsageTotal(day, model, *numbers)) for (owner, day, model), numbers in totals.items())


def changed_owners(changes: Changes) -> frozenset[str]:
    """The owners whose lists of sessions a batch has changed, '' for none."""
    listed = [one for one in changes.sessions if not (one.is_unlisted or one.session.kind)]
    before = {one.before.owner or "" for one in listed if one.before is not None}  # an erasure may name another
    return frozenset(before | {one.session.owner or "" for one in listed})


def completed_usage(changes: SessionChanges) -> Iterable[UsageTotal]:
    """The usage of each reply that this batch completed."""
    rows: Iterable[NewMessage | MessageUpdate] = chain(changes.inserts.values(), changes.updates.values())
    for row in rows:
        if row.day is not None:
            yield UsageTotal(
                row.day,
                row.model or "",
                1,
                row.prompt_tokens or 0,
                row.completion_tokens or 0,
                row.reasoning_tokens or 0,
                row.cached_tokens or 0,
            )


def day_of(at_us: int) -> str:
    """The UTC day of a time, YYYY-MM-DD."""
    return _day(at_us // _DAY_US)


@lru_cache(maxsize=64)
def _day(days: int) -> str:
    return datetime.fromtimestamp(days * 86_400, UTC).strftime("%Y-%m-%d")
