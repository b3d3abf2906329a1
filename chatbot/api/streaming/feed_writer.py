"""A subscription to a session's feed: catches up from the log by a cursor, then follows the text that grows.

Also the frame of each recorded event (pure).
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from typing import assert_never, cast

import structlog
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from chatbot.api.requests import Cursor
from chatbot.api.streaming import frames
from chatbot.api.streaming.reply_writer import RunningReply, terminal_frame
from chatbot.api.streaming.response_stream import DONE, FlushScheduler, News, Progress, ResponseStream, encode_frame
from chatbot.runtime.clock import timestamp
from chatbot.runtime.throttle import PIECE_BYTES
from chatbot.sessions.feeds.channels import KEPT_MAX, Channel, ChannelRegistry, Signal
from chatbot.sessions.feeds.reader_cursor import ReaderCursor, advance, advance_live, continues
from chatbot.sessions.replies.growing_parts import NO_PART
from chatbot.sessions.replies.recorded_text import recorded_offset
from chatbot.sessions.replies.reply import Reply, recorded_outcome
from chatbot.sessions.session_queries import SessionWithMetadata
from events.catalogue import (
    AnyEvent,
    BranchSelected,
    ContentErased,
    HistoryAdopted,
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
from events.errors import LogError, LogUnavailable
from events.log import EventLog
from events.record import RecordedEvent
from projections.errors import ProjectionError
from projections.folds.session import Session


class FeedState(Enum):
    """What a feed writer does next."""

    FIRST_FRAME = auto()  # say where the reader is, if its cursor does not
    CATCHING_UP = auto()  # send recorded events after the cursor
    LIVE = auto()  # nothing more is recorded: send text that has grown
    WAITING = auto()  # nothing is new: wait for a signal
    ENDED = auto()


class FeedSources(Struct, frozen=True):
    """What the feed writers of one application read. `retry_ms`: milliseconds after which a reader is to reconnect.

    `with_metadata` adds titles and metadata to sessions. `reply_created_at` returns when a reply was created, in
    Unix microseconds, by its session's number in the projections, the event that ended it, and its id; it raises
    ProjectionError.
    """

    log: EventLog
    feeds: ChannelRegistry
    running_reply: RunningReply
    with_metadata: Callable[[Sequence[Session]], Awaitable[list[SessionWithMetadata]]]
    reply_created_at: Callable[[int, RecordedEvent, str], Awaitable[int]]
    flush_scheduler: FlushScheduler
    retry_ms: int
    logger: structlog.stdlib.BoundLogger


FEED_SOURCES: web.AppKey[FeedSources] = web.AppKey("feed_sources", FeedSources)


class FeedWriter:
    """One reader's way through one session: recorded events first, then the text that grows, then wait for more.

    There may be ten thousand of them, so nothing is kept that is needed only at the start.
    """

    def __init__(self, sources: FeedSources, session: Session, channel: Channel) -> None:
        self._sources = sources
        self._session_id, self._session_no = session.session_id, session.no
        self._channel = channel
        self._reader_cursor = ReaderCursor(session.version)
        self._state = FeedState.CATCHING_UP
        self._first_frame: frames.FeedFrame | None = None
        self._retry_ms: int | None = sources.retry_ms  # sent with the first frame only
        self._live_reply: Reply | None = None  # the reply whose text continues at the cursor
        self._stream: ResponseStream

    async def begin(self, session: Session, cursor: Cursor | None) -> None:
        """Set the reader's cursor. Raises LogUnavailable."""
        if cursor is None:
            self._reader_cursor = ReaderCursor(session.version, await self._current_offset(session))
            self._begin_with(await self._session_frame(session))
        elif cursor.version > self._channel.latest:
            self._begin_with(await self._resync(session.version))
        elif cursor.offset is None:
            offset = await recorded_offset(self._sources.log, session.session_id, cursor.version)
            self._reader_cursor = ReaderCursor(cursor.version, offset)
        else:
            self._reader_cursor = ReaderCursor(cursor.version, cursor.offset)
        reply, written = self._sources.running_reply(self._session_id), session.open_reply
        if reply is not None and reply.version <= session.version:
            is_over = written is None or written.version != reply.version
            if is_over:  # Another node has ended or restarted it, and its actor here does not know yet.
                self._reader_cursor = replace(self._reader_cursor, open_since=reply.version + 1)

    async def write(self, stream: ResponseStream) -> None:
        """Until the session or the service ends, or the reader leaves, which raises ConnectionError.

        From LIVE to WAITING nothing is awaited, so no news are missed between finding none and listening.
        """
        self._stream = stream
        try:
            while self._state is not FeedState.ENDED:
                match self._state:
                    case FeedState.FIRST_FRAME:
                        await self._send_first_frame()
                    case FeedState.CATCHING_UP:
                        await self._send_recorded()
                    case FeedState.LIVE:
                        await self._send_live()
                    case FeedState.WAITING:  # here, so that a reader that waits for hours holds one frame less
                        await self._sources.flush_scheduler.stream_updates(stream, self._take_news, *self._signals())
                        self._state = FeedState.CATCHING_UP
                    case _:
                        assert_never(self._state)
        except (LogError, ProjectionError) as error:
            # The reader returns with its cursor, as if the connection had broken.
            self._sources.logger.warning("feed.cut", reason=str(error))

    def _begin_with(self, frame: frames.FeedFrame) -> None:
        self._first_frame, self._state = frame, FeedState.FIRST_FRAME

    async def _send_first_frame(self) -> None:
        if self._first_frame is None:
            raise RuntimeError("there is no first frame")
        first, self._first_frame = self._first_frame, None
        self._state = FeedState.CATCHING_UP
        await self._send(first)

    async def _send_recorded(self) -> None:
        erasures = self._channel.erasures
        new_events = await self._read_new_events()
        if not new_events:
            self._state = FeedState.LIVE
            return
        for recorded in new_events:
            await self._send_event(recorded)
            if self._state is FeedState.ENDED:
                return
            if recorded.event is None or self._channel.erasures != erasures:
                return  # the cursor has moved past an erasure, or the remaining events have been erased meanwhile

    async def _send_live(self) -> None:
        self._live_reply = self._reply_at_cursor()
        if live_frames := self._encode_live_text():
            self._state = FeedState.CATCHING_UP
            await self._stream.send(live_frames)
        elif self._sources.feeds.closed:
            self._retry_ms = self._sources.retry_ms
            await self._send(frames.Draining(self._reader_cursor.version))
        else:
            self._state = FeedState.WAITING

    def _signals(self) -> tuple[Signal, ...]:
        if self._live_reply is None:
            return (self._channel.signal,)
        return self._channel.signal, self._live_reply.signal

    def _take_news(self) -> News:
        """The text that has grown; OVER if there are news of another kind."""
        if self._sources.feeds.closed or self._channel.latest > self._reader_cursor.version:
            return Progress.OVER
        if self._live_reply is None and self._reply_at_cursor() is not None:
            return Progress.OVER  # the reply's start arrived from the log before the reply itself
        return self._encode_live_text()

    def _reply_at_cursor(self) -> Reply | None:
        """The reply whose text continues at the cursor."""
        reply = self._sources.running_reply(self._session_id)
        return reply if reply is not None and continues(self._reader_cursor, reply) else None

    def _encode_live_text(self) -> bytes:
        """What is new of the live reply as frames, which are encoded once for all readers with the same cursor."""
        reply, before = self._live_reply, self._reader_cursor
        if reply is None:
            return b""
        after = self._reader_cursor = advance_live(before, reply)
        if after is before:
            return b""
        key = (before.version, before.offset, before.part, after.offset, after.part, self._retry_ms)
        if self._channel.encoded_chunk is None or self._channel.encoded_chunk[0] != key:
            self._channel.encoded_chunk = key, self._encode_growth(reply, before)
        encoded = self._channel.encoded_chunk[1]
        self._retry_ms = None if encoded else self._retry_ms
        return encoded

    def _encode_growth(self, reply: Reply, before: ReaderCursor) -> bytes:
        after, retry_ms = self._reader_cursor, self._retry_ms
        if reply.last_part == NO_PART:  # text alone, as most replies are
            chunk = frames.FeedChunk(reply.since(before.offset), reply.reply_id)
            return encode_frame(chunk, after.version, after.offset, retry_ms=retry_ms)
        encoded = b""
        for one in reply.segments(before.offset, before.part):
            frame = frames.feed_growth_frame(one, reply.reply_id)
            encoded += encode_frame(frame, after.version, one.end, retry_ms=None if encoded else retry_ms)
        return encoded

    async def _read_new_events(self) -> list[RecordedEvent]:
        """The events after the cursor, or the first of them. Raises LogUnavailable."""
        kept = self._channel.after(self._reader_cursor.version)
        if kept is not None:
            return kept
        # No more than the channel keeps: a reader that takes nothing must not hold a long page in memory.
        after = self._reader_cursor.version
        found = await self._sources.log.read(self._session_id, after=after, limit=KEPT_MAX, bytes_max=PIECE_BYTES)
        if not found:  # a database that has lost events: reading again immediately would never end
            raise LogUnavailable("the log does not have the events that it announced")
        return found

    async def _send_event(self, recorded: RecordedEvent) -> None:
        if recorded.event is None:
            await self._skip_erased()
            return
        before, event = self._reader_cursor, recorded.event
        self._reader_cursor, segments = advance(before, recorded)
        if isinstance(event, ReplyEnded):
            for one in segments:
                await self._send(frames.feed_growth_frame(one, event.reply_id), before.version, one.end)
            created_at_us = await self._created_at_us(before, recorded, event)
            await self._send(terminal_frame(event.reply_id, recorded_outcome(event, recorded, created_at_us)))
        elif isinstance(event, ReplyProgressed):
            for one in segments:
                await self._send(frames.feed_growth_frame(one, event.reply_id))
        elif frame := event_frame(recorded):
            await self._send(frame)

    async def _created_at_us(self, before: ReaderCursor, recorded: RecordedEvent, event: ReplyEnded) -> int:
        """When the reply started, in Unix microseconds; 0 if its last frame does not say. Raises ProjectionError."""
        if before.reply_id == event.reply_id and before.started_at_us:
            return before.started_at_us
        if not isinstance(event, ReplyCompleted):
            return 0
        return await self._sources.reply_created_at(self._session_no, recorded, event.reply_id)

    async def _skip_erased(self) -> None:
        """Continue after erased events: the session is deleted, or goes on without them."""
        (newest,) = await self._sources.log.read(self._session_id, limit=1, backwards=True)
        if newest.type == "session_deleted":
            self._reader_cursor = ReaderCursor(newest.version)
            await self._send(frames.Deleted(newest.version))
        else:
            await self._send(await self._resync(newest.version))

    async def _resync(self, version: int) -> frames.Resync:
        offset = await recorded_offset(self._sources.log, self._session_id, version)
        self._reader_cursor = ReaderCursor(version, offset)
        return frames.Resync(version)

    async def _current_offset(self, session: Session) -> int:
        """The length of what is written so far of the reply that is open at the session's version."""
        reply = self._sources.running_reply(self._session_id)
        if session.open_reply is None:
            return 0
        if reply is not None and reply.version == session.open_reply.version:
            return reply.length
        return await recorded_offset(self._sources.log, session.session_id, session.version)

    async def _session_frame(self, session: Session) -> frames.Session:
        """The session as it is; without texts if it was erased meanwhile, which the feed is about to say."""
        described = await self._sources.with_metadata([session])
        known = described[0] if described else SessionWithMetadata(session, {}, None)
        return frames.Session(session.session_id, known.title, known.metadata, session.version)

    async def _send(self, frame: frames.FeedFrame, version: int | None = None, offset: int | None = None) -> None:
        """Send with the reader's cursor, unless another is given. The last frame of a session ends the feed."""
        version = self._reader_cursor.version if version is None else version
        offset = self._reader_cursor.offset if offset is None else offset
        encoded = encode_frame(frame, version, offset, retry_ms=self._retry_ms)
        self._retry_ms = None
        if isinstance(frame, frames.Expired | frames.Deleted | frames.Draining):
            self._state = FeedState.ENDED
        if isinstance(frame, frames.Expired | frames.Deleted):
            encoded += DONE
        await self._stream.send(encoded)


def event_frame(recorded: RecordedEvent) -> frames.FeedFrame | None:  # noqa: PLR0911, PLR0912  a table of all events
    """The frame of an event, except of a reply's text and end; None for an event that only advances the cursor."""
    event, version = cast(AnyEvent | None, recorded.event), recorded.version
    match event:
        case SessionCreated() | MetadataChanged():
            return frames.Session(recorded.stream_id, event.title, event.metadata, version)
        case MessagePosted():
            return _message_frame(recorded, event)
        case MessageWithdrawn():
            return frames.Removed(event.message_id, event.reply_id, event.parent_id, version)
        case MessageRedacted():
            return frames.Redaction(event.message_id, event.part, event.reason_code, version)
        case ReplyRequested():
            return frames.Queued(recorded.stream_id, event.reply_id, event.parent_id, version)
        case ReplyStarted():
            return frames.Start(recorded.stream_id, event.reply_id, event.parent_id, version, event.model)
        case ToolCallsClosed():
            return frames.CallsClosed(event.reply_id, list(event.call_ids), event.reason, version)
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
        case ReplyProgressed() | ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            return None  # the writer sends what the reader does not have of the text
        case SessionAccessed() | SessionRead() | SessionViewed() | HistoryAdopted() | MessageCopied() | ReservedEvent():
            return None
        case None:  # erased
            return None
        case _:
            assert_never(event)


def _message_frame(recorded: RecordedEvent, posted: MessagePosted) -> frames.Message:
    return frames.Message(
        message_id=posted.message_id,
        parent_id=posted.parent_id,
        role=posted.role,  # type: ignore[arg-type]  # the log holds no other roles
        content=posted.content,
        created_at=timestamp(recorded.recorded_at_us),
        reply_id=posted.reply_id,
        version=recorded.version,
        parts=posted.parts,
        imported=posted.imported,
    )
