"""What a session's feed says of each recorded event that is no text and no reply's end. Pure."""

from chatbot.api import frames
from chatbot.audit.moment import timestamp
from events.catalogue import (
    BranchSelected,
    ContentErased,
    MessagePosted,
    MetadataChanged,
    ReplyRequested,
    ReplyStarted,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
)
from events.record import RecordedEvent


def frame_of(recorded: RecordedEvent) -> frames.FeedFrame | None:
    """The frame that tells `recorded`; None for what only moves the cursor on."""
    event, version = recorded.event, recorded.version
    match event:
        case SessionCreated() | MetadataChanged():
            return frames.Session(recorded.stream_id, event.title, event.metadata, version)
        case MessagePosted():
            return _message(recorded, event)
        case ReplyRequested():
            return frames.Queued(recorded.stream_id, event.reply_id, event.parent_id, version)
        case ReplyStarted():
            return frames.Start(recorded.stream_id, event.reply_id, event.parent_id, version, event.model)
        case BranchSelected():
            return frames.Branch(event.message_id, version)
        case SessionExpired(erase_reason=str()):
            return frames.Deleted(version)
        case SessionExpired():
            return frames.Expired(version)
        case SessionDeleted():
            return frames.Deleted(version)
        case ContentErased():
            return frames.Resync(version)
    return None


def _message(recorded: RecordedEvent, posted: MessagePosted) -> frames.Message:
    return frames.Message(
        message_id=posted.message_id,
        parent_id=posted.parent_id,
        role=posted.role,  # type: ignore[arg-type]  # the log holds no other roles
        content=posted.content,
        created_at=timestamp(recorded.recorded_at_us),
        reply_id=posted.reply_id,
        version=recorded.version,
    )
