"""A reader's cursor in a session's stream: a pure fold over recorded events that yields the text not yet seen.

In HTTP a cursor is <version>:<offset>. Its offset counts what the reader has of the reply that was open at its version.
The cursor need not name that reply: the first text recorded after the cursor, with no start before it, is that reply's.
"""

from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from chatbot.sessions.replies.reply import Reply
from events.catalogue import (
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    MessageCopied,
    MessagePosted,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    ToolCallsClosed,
)
from events.record import RecordedEvent


class ReaderCursor(Struct, frozen=True):
    """What a reader has: all events up to `version`, and `offset` code points of the reply that is open there.

    `reply_id` is None while that reply is not known, or there is none; `started_at_us` is 0 while not known. The open
    reply has started at version `open_since` or later.
    """

    version: int
    offset: int = 0
    reply_id: str | None = None
    started_at_us: int = 0
    open_since: int = 1


def advance(cursor: ReaderCursor, recorded: RecordedEvent) -> tuple[ReaderCursor, str]:
    """The cursor after the next event of the stream, and the text in that event that the reader does not have."""
    event = recorded.event
    cursor = replace(cursor, version=recorded.version)
    match event:
        case ReplyStarted():  # also a further attempt: its text starts again
            started = replace(cursor, offset=0, reply_id=event.reply_id, started_at_us=recorded.recorded_at_us)
            return replace(started, open_since=recorded.version), ""
        case ReplyProgressed():
            return _progressed(cursor, event)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            return _ended(cursor, event)
        case ContentErased():
            return ReaderCursor(recorded.version), ""
        case (
            SessionCreated()
            | MetadataChanged()
            | SessionAccessed()
            | SessionExpired()
            | SessionDeleted()
            | MessagePosted()
            | ReplyRequested()
            | ToolCallsClosed()
            | BranchSelected()
            | HistoryAdopted()
            | MessageCopied()
            | IgnoredEvent()
            | None
        ):
            return cursor, ""
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


def advance_text(cursor: ReaderCursor, reply: Reply) -> tuple[ReaderCursor, str]:
    """The cursor after all of the text so far, and the new text. Only valid if the reply `continues` the cursor."""
    if reply.length <= cursor.offset:
        return cursor, ""
    text = reply.since(cursor.offset)
    offset, started_at_us = reply.length, reply.started_at_us
    return replace(cursor, offset=offset, reply_id=reply.reply_id, started_at_us=started_at_us), text


def _progressed(cursor: ReaderCursor, event: ReplyProgressed) -> tuple[ReaderCursor, str]:
    known, end = cursor.offset, event.offset + len(event.text)
    cursor = replace(cursor, reply_id=event.reply_id)
    if event.offset > known or end <= known:  # after a gap, which the live text or the end fills; or known
        return cursor, ""
    return replace(cursor, offset=end), event.text[known - event.offset :]


def _ended(cursor: ReaderCursor, event: ReplyEnded) -> tuple[ReaderCursor, str]:
    """A queued reply may end while another runs: it has no text, and the cursor does not change."""
    is_other = cursor.reply_id is not None and cursor.reply_id != event.reply_id
    if is_other or (cursor.reply_id is None and not event.content):
        return cursor, ""
    text = event.content[cursor.offset :]
    return replace(cursor, offset=0, reply_id=None, started_at_us=0, open_since=cursor.version), text
