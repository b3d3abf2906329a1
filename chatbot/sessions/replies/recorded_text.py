"""The recorded text of a running reply: up to a second behind its readers."""

from msgspec import Struct

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
from events.log import EventLog
from projections.folds.session import OpenReply

EVENTS_PER_STEP = 64  # events per backward read: a running reply records one a second, so one page nearly always does


class RunningText(Struct, frozen=True):
    """The recorded text of a running reply, as of `version`."""

    version: int
    text: str = ""


async def recorded_text(
    log: EventLog,
    session_id: str,
    open_reply: OpenReply,
    *,
    page: int,
    up_to: int | None = None,
    known: RunningText | None = None,
) -> str:
    """The recorded text of a reply that has not ended, as of version `up_to` (None: the newest).

    Reads `page` events at a time, and only those after `known`. Raises LogUnavailable.
    """
    known = known or RunningText(open_reply.version)
    after, text = known.version, known.text
    while up_to is None or after < up_to:
        limit = page if up_to is None else min(page, up_to - after)
        found = await log.read(session_id, after=after, limit=limit)
        for recorded in found:
            if isinstance(recorded.event, ReplyProgressed) and recorded.event.reply_id == open_reply.reply_id:
                text = text[: recorded.event.offset] + recorded.event.text
        if len(found) < limit:
            break
        after = found[-1].version
    return text


async def recorded_offset(log: EventLog, session_id: str, version: int) -> int:
    """Recorded code points, as of `version`, of the reply that was open then; 0 if none was.

    Scans backwards to the newest event that decides it. `version` comes from a client: one beyond the end of the stream
    means the end, and costs no more. Raises LogUnavailable.
    """
    ended: set[str] = set()
    while version > 0:
        after = max(0, version - EVENTS_PER_STEP)
        page = await log.read(session_id, after=after, limit=version - after)
        if not page:
            newest = await log.read(session_id, limit=1, backwards=True)
            version = newest[0].version if newest else 0
            continue
        for recorded in reversed(page):
            match recorded.event:
                case None | ReplyStarted() | ContentErased():
                    return 0
                case ReplyProgressed() as progressed:
                    is_open = progressed.reply_id not in ended
                    return progressed.offset + len(progressed.text) if is_open else 0
                case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted() as event:
                    ended.add(event.reply_id)
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
                ):
                    pass
        version = after
    return 0
