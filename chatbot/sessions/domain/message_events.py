"""The events that hold a message, out of all that the log can return."""

from typing import assert_never

from events.catalogue import (
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    LoggedEvent,
    MessageCopied,
    MessageEvent,
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


def as_message_event(event: LoggedEvent | None) -> MessageEvent | None:
    """`event` if it holds a message (its trait `holds_message`); None for all others, and for one that was erased."""
    match event:
        case (
            MessagePosted() | MessageCopied() | ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted()
        ):
            return event
        case (
            SessionCreated()
            | MetadataChanged()
            | SessionAccessed()
            | SessionRead()
            | SessionViewed()
            | MessageWithdrawn()
            | MessageRedacted()
            | SessionExpired()
            | SessionDeleted()
            | ReplyRequested()
            | ReplyStarted()
            | ReplyProgressed()
            | ToolCallsClosed()
            | BranchSelected()
            | HistoryAdopted()
            | ContentErased()
            | ReservedEvent()
            | IgnoredEvent()
            | None
        ):
            return None
        case _:
            assert_never(event)
