"""A reader's cursor in a session's stream: a pure fold over recorded events that yields the text not yet seen.

In HTTP a cursor is <version>:<offset>. Its offset counts what the reader has of the reply that was open at its version,
in code points over all of its parts. A reader that comes back at the beginning of an empty part is sent it once more.
The cursor need not name that reply: the first text recorded after the cursor, with no start before it, is that reply's.
"""

from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from chatbot.sessions.replies.growing_parts import (
    NO_PART,
    Segment,
    cut_segments,
    flat_text,
    marks_of,
    segment_of,
)
from chatbot.sessions.replies.reply import Reply
from events.catalogue import (
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
from events.record import RecordedEvent
from events.schema.parts import is_redacted


class ReaderCursor(Struct, frozen=True):
    """What a reader has: all events up to `version`, and `offset` code points of the reply that is open there.

    `reply_id` is None while that reply is not known, or there is none; `started_at_us` is 0 while not known. The open
    reply has started at version `open_since` or later. `part` is the last part of which the reader was sent something.
    """

    version: int
    offset: int = 0
    reply_id: str | None = None
    started_at_us: int = 0
    open_since: int = 1
    part: int = NO_PART


def advance(cursor: ReaderCursor, recorded: RecordedEvent) -> tuple[ReaderCursor, list[Segment]]:
    """The cursor after the next event of the stream, and what of a reply in that event the reader does not have."""
    event = recorded.event
    cursor = replace(cursor, version=recorded.version)
    match event:
        case ReplyStarted():  # also a further attempt: its text starts again
            cursor = ReaderCursor(recorded.version, 0, event.reply_id, recorded.recorded_at_us, recorded.version)
            return cursor, []
        case ReplyProgressed():
            return _progressed(cursor, event)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            return _ended(cursor, event)
        case ContentErased():
            return ReaderCursor(recorded.version), []
        case (
            SessionCreated()
            | MetadataChanged()
            | SessionAccessed()
            | SessionRead()
            | SessionViewed()
            | MessageWithdrawn()
            | SessionExpired()
            | SessionDeleted()
            | MessagePosted()
            | ReplyRequested()
            | ToolCallsClosed()
            | BranchSelected()
            | HistoryAdopted()
            | MessageCopied()
            | MessageRedacted()
            | ReservedEvent()
            | IgnoredEvent()
            | None
        ):
            return cursor, []
        case _:
            assert_never(event)


def continues(cursor: ReaderCursor, reply: Reply) -> bool:
    """Whether the live text of `reply` continues at `cursor`.

    A reader of the log may be ahead of the session's actor, which then still has a reply that has ended, or an earlier
    attempt of the open one.
    """
    if not cursor.open_since <= reply.version <= cursor.version:
        return False
    return cursor.reply_id in (None, reply.reply_id)


def advance_live(cursor: ReaderCursor, reply: Reply) -> ReaderCursor:
    """The cursor after all of the reply so far, or `cursor` itself if nothing has come. Only valid if the reply
    `continues` the cursor. What has come is `reply.segments(cursor.offset, cursor.part)`.
    """
    length, offset, part = reply.length, cursor.offset, reply.last_part
    if length <= offset and part <= cursor.part:
        return cursor
    end = length if length > offset else offset
    return ReaderCursor(cursor.version, end, reply.reply_id, reply.started_at_us, cursor.open_since, part)


def _progressed(cursor: ReaderCursor, event: ReplyProgressed) -> tuple[ReaderCursor, list[Segment]]:
    known, end = cursor.offset, event.offset + len(event.text)
    cursor = replace(cursor, reply_id=event.reply_id)
    if event.offset > known or end < known:  # after a gap, which the live text or the end fills; or known
        return cursor, []
    if end == known:
        begins = not event.text and event.part > cursor.part
        return (replace(cursor, part=event.part), [segment_of(event)]) if begins else (cursor, [])
    segment = replace(segment_of(event), offset=known, text=event.text[known - event.offset :])
    is_plain = cursor.part == NO_PART and not event.part and event.kind == "text"
    return replace(cursor, offset=end, part=NO_PART if is_plain else event.part), [segment]


def _ended(cursor: ReaderCursor, event: ReplyEnded) -> tuple[ReaderCursor, list[Segment]]:
    """A queued reply may end while another runs: it has no text, and the cursor does not change."""
    is_other = cursor.reply_id is not None and cursor.reply_id != event.reply_id
    if is_other or (cursor.reply_id is None and not event.content and not event.parts):
        return cursor, []
    if event.parts and is_redacted(event.parts):  # the offset counts what is gone: the reply's end has what is left
        return ReaderCursor(cursor.version, open_since=cursor.version), []
    text = flat_text(event.parts) if event.parts else event.content
    segments = cut_segments(text[cursor.offset :], cursor.offset, marks_of(event.parts), cursor.part)
    return ReaderCursor(cursor.version, open_since=cursor.version), segments
