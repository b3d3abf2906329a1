"""The recorded text of a running reply: up to a second behind its readers."""

from msgspec import Struct

from chatbot.sessions.replies.growing_parts import Mark, build_parts, content_of, segment_of, with_segment
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
from events.log import EventLog
from events.schema.parts import Parts, find_faults
from projections.folds.session import OpenReply

EVENTS_PER_STEP = 64  # events per backward read: a running reply records one a second, so one page nearly always does


class RecordedReply(Struct, frozen=True):
    """What is recorded of a running reply as of `version`: its flat text, and where its parts begin in it."""

    version: int
    text: str = ""
    marks: tuple[Mark, ...] = ()

    @property
    def content(self) -> str:
        """The text of the parts of text."""
        return content_of(self.text, self.marks)

    @property
    def parts(self) -> Parts:
        """As an event holds them: none of a reply of text alone. None, either, where an imported log has checkpoints
        of which no event can be made: the reply must end all the same.
        """
        parts = build_parts(self.text, self.marks)
        return () if any(find_faults(parts)) else parts


async def recorded_reply(
    log: EventLog,
    session_id: str,
    open_reply: OpenReply,
    *,
    page: int,
    up_to: int | None = None,
    known: RecordedReply | None = None,
) -> RecordedReply:
    """What is recorded of a reply that has not ended, as of version `up_to` (None: the newest).

    Reads `page` events at a time, and only those after `known`. Raises LogUnavailable.
    """
    known = known or RecordedReply(open_reply.version)
    after, text, marks = known.version, known.text, known.marks
    while up_to is None or after < up_to:
        limit = page if up_to is None else min(page, up_to - after)
        found = await log.read(session_id, after=after, limit=limit)
        for recorded in found:
            if isinstance(recorded.event, ReplyProgressed) and recorded.event.reply_id == open_reply.reply_id:
                text, marks = with_segment(text, marks, segment_of(recorded.event))
            after = recorded.version
        if len(found) < limit:
            break
    return RecordedReply(after if up_to is None else up_to, text, marks)


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
                ):
                    pass
        version = after
    return 0
