"""Turns the events of one session into the entries of a report, one by one. Pure: the caller reads the texts of other
sessions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, assert_never

import msgspec
from msgspec import Struct

from chatbot.audit.conversation import MessageAsOf, parts_in, text_in
from chatbot.audit.event_view import format_time
from chatbot.audit.report.entries import ErasedEntry, MessageEntry, NoteEntry, ReceiptEntry
from chatbot.audit.report.session_outline import SessionOutline
from chatbot.sessions.replies.growing_parts import Mark, build_parts, segment_of, with_segment
from events.catalogue import (
    AdoptedMessage,
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
)
from events.codec import event_type
from events.record import RecordedEvent
from events.schema.parts import Parts, Text
from projections.folds.message import COMPLETE, ENDINGS, FINISH_REASONS, STREAMING

_decode = msgspec.json.decode
_encode = msgspec.json.encode


class StartedReply(Struct):
    """A reply whose request was sent to a model: its event, and what is recorded of the text so far."""

    recorded: RecordedEvent
    event: ReplyStarted
    text: str = ""
    marks: tuple[Mark, ...] = ()

    @property
    def parts(self) -> Parts:
        return build_parts(self.text, self.marks) or _one_text(self.text)


class Timeline:
    """The events of a session, in order, as entries. `outline` is the session as it is after all of them.

    Memory: the number of each message, and the texts of replies that have not ended.
    """

    def __init__(self, outline: SessionOutline) -> None:
        self._session_id = outline.session_id
        self._selected = outline.selected_ids()
        self._parents = outline.parents
        self._numbers: dict[str, int] = {}
        self._started: dict[str, StartedReply] = {}
        self._erased: Counter[str] = Counter()
        self._erased_versions = (0, 0)

    def apply(self, recorded: RecordedEvent) -> Iterator[MessageEntry | NoteEntry | ErasedEntry | ReceiptEntry]:
        """The entries of the next event, which is no history_adopted; see `adopt`."""
        if recorded.event is None:
            first = self._erased_versions[0] if self._erased else recorded.version
            self._erased_versions = first, recorded.version
            self._erased[recorded.type] += 1
            return
        yield from self._end_erased()
        yield from self._apply(recorded, recorded.event)

    def adopt(self, recorded: RecordedEvent, messages: list[MessageAsOf]) -> Iterator[MessageEntry | ErasedEntry]:
        """The entries of some of the messages that a fork has from other sessions."""
        yield from self._end_erased()
        for one in messages:
            yield MessageEntry(
                **self._happened(recorded) | {"at": format_time(one.created_at_us)},
                **self._place(one.message_id),
                role=one.role,
                status=one.status,
                parts=one.parts or _one_text(one.content),
                imported=one.imported,
                adopted=True,
                model=one.model,
                finish_reason=one.finish_reason,
                finish_detail=one.finish_detail,
                usage=one.usage,
            )

    def close(self) -> Iterator[MessageEntry | ErasedEntry]:
        """What is left at the end: replies that have not ended, as far as they are recorded."""
        yield from self._end_erased()
        for reply_id, started in self._started.items():
            yield MessageEntry(
                **self._happened(started.recorded),
                **self._place(reply_id),
                **_requested(started),
                role="assistant",
                status=STREAMING,
                parts=started.parts,
            )

    def _apply(self, recorded: RecordedEvent, event: LoggedEvent) -> Iterator[MessageEntry | NoteEntry | ReceiptEntry]:
        match event:
            case MessagePosted():
                yield MessageEntry(
                    **self._happened(recorded),
                    **self._place(event.message_id),
                    role=event.role,
                    status=COMPLETE,
                    parts=event.parts or _one_text(event.content),
                    imported=event.imported,
                )
            case ReplyStarted():
                self._started[event.reply_id] = StartedReply(recorded, event)
            case ReplyProgressed():
                if started := self._started.get(event.reply_id):
                    started.text, started.marks = with_segment(started.text, started.marks, segment_of(event))
            case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                yield self._reply(recorded, event)
            case SessionDeleted() | ContentErased():
                self._started.clear()
                receipt = {"reason": event.reason}
                yield ReceiptEntry(**self._happened(recorded), kind="erasure", receipt=receipt)
            case MessageRedacted():
                redacted = {name: getattr(event, name) for name in ("message_id", "part", "reason_code", "ticket")}
                yield ReceiptEntry(**self._happened(recorded), kind="redaction", receipt=redacted)
            case SessionAccessed() | SessionRead() | SessionViewed() | MessageCopied() | HistoryAdopted():
                pass
            case (
                SessionCreated()
                | MetadataChanged()
                | SessionExpired()
                | MessageWithdrawn()
                | ReplyRequested()
                | ToolCallsClosed()
                | BranchSelected()
                | ReservedEvent()
                | IgnoredEvent()
            ):
                yield self._note(recorded, event)
            case _:
                assert_never(event)

    def _reply(self, recorded: RecordedEvent, event: ReplyEnded) -> MessageEntry:
        started, status = self._started.pop(event.reply_id, None), ENDINGS[event_type(event)]
        reason, model = FINISH_REASONS.get(status), event.model
        if isinstance(event, ReplyCompleted):
            reason = event.finish_reason
        requested = _requested(started) if started is not None else {}
        return MessageEntry(
            **self._happened(recorded),
            **self._place(event.reply_id),
            **requested | ({"model": model} if model else {}),
            role="assistant",
            status=status,
            parts=event.parts or _one_text(event.content),
            duration_us=event.duration_us or None,
            finish_reason=reason,
            finish_detail=event.finish_detail if isinstance(event, ReplyCompleted | ReplyFailed) else "",
            usage=event.usage,
            failure=f"{event.cause}: {event.detail}" if isinstance(event, ReplyFailed) else None,
            server=event.server,
        )

    def _note(self, recorded: RecordedEvent, event: LoggedEvent) -> NoteEntry:
        members = _decode(_encode(event), type=dict[str, Any])
        kind = str(members.pop("type"))
        return NoteEntry(**self._happened(recorded), event=kind, text=describe(event), details=members)

    def _happened(self, recorded: RecordedEvent) -> dict[str, Any]:
        """The fields of Happened."""
        metadata = recorded.metadata
        return {
            "session_id": self._session_id,
            "at": format_time(recorded.recorded_at_us),
            "position": recorded.position,
            "version": recorded.version,
            "key": metadata.actor,
            "request_id": metadata.request_id,
            "cause": metadata.cause,
        }

    def _place(self, message_id: str) -> dict[str, Any]:
        """The number of the message, that of the one before it, and whether it is on the selected branch."""
        again = message_id in self._numbers
        number = self._numbers.setdefault(message_id, len(self._numbers) + 1)
        return {
            "message_id": message_id,
            "number": number,
            "follows": self._numbers.get(self._parents.get(message_id) or ""),
            "selected": message_id in self._selected,
            "again": again,
        }

    def _end_erased(self) -> Iterator[ErasedEntry]:
        if self._erased:
            first, last = self._erased_versions
            yield ErasedEntry(
                session_id=self._session_id, first_version=first, last_version=last, events=dict(self._erased)
            )
            self._erased = Counter()


def describe(event: LoggedEvent) -> str:
    """What an event that is no message says, in a few words without anything that a user wrote."""
    match event:
        case SessionCreated():
            return "the session was created" if event.forked_from is None else "the session was created as a fork"
        case MetadataChanged():
            return "title, metadata or settings were changed"
        case SessionExpired():
            return "the session expired" if event.erase_reason is None else "the session was deleted, to be erased"
        case MessageWithdrawn():
            return "a message was taken back while its reply was queued"
        case ReplyRequested():
            return "another reply was requested" if event.attempt == 1 else f"attempt {event.attempt} of a reply began"
        case ToolCallsClosed():
            return f"tool calls were closed without results: {event.reason}"
        case BranchSelected():
            return "another branch was selected"
        case _:
            return f"an event of type {event_type(event)}"


def adopted_source(
    message: AdoptedMessage, texts: Mapping[int, RecordedEvent], copies: Mapping[str, RecordedEvent]
) -> LoggedEvent | None:
    """The event that holds the text of an adopted message: its own or, where that is erased, a copy; None: neither."""
    for recorded in (texts.get(message.position), copies.get(message.message_id)):
        if recorded is not None and (text_in(recorded.event) or parts_in(recorded.event)):
            return recorded.event
    return None


def _requested(started: StartedReply) -> dict[str, Any]:
    """The fields of a reply's request."""
    return {
        "model": started.event.model or None,
        "provider": started.event.provider or None,
        "requested_at": format_time(started.recorded.recorded_at_us),
    }


def _one_text(content: str) -> Parts:
    return (Text(content),) if content else ()
