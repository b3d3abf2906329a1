"""One reader of a session's feed: its place, and what it is sent there.

What a session's feed says of each recorded event that is no text and no reply's end. Pure.
"""

from msgspec.structs import replace

from chatbot.api.services import Services
from chatbot.api.streaming import frames
from chatbot.api.streaming.cursors import Cursor
from chatbot.api.streaming.response_stream import ResponseStream
from chatbot.api.streaming.terminal_frames import terminal_frame
from chatbot.runtime.throttle import PIECE_BYTES
from chatbot.runtime.timestamps import timestamp
from chatbot.sessions.feeds.channels import KEPT_MAX, Channel, Signal
from chatbot.sessions.feeds.reader_cursor import ReaderCursor, advance, advance_text, continues
from chatbot.sessions.replies.recorded_text import recorded_offset
from chatbot.sessions.replies.reply import Reply, recorded_outcome
from chatbot.sessions.session_queries import SessionWithMetadata
from events.catalogue import (
    BranchSelected,
    ContentErased,
    MessagePosted,
    MetadataChanged,
    ReplyCompleted,
    ReplyEnded,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
)
from events.errors import LogError, LogUnavailable
from events.record import RecordedEvent
from projections.errors import ProjectionError
from projections.folds.session import Session


class FeedWriter:
    """One reader's way through one session: recorded events first, then the text that grows, then wait for more.

    There may be ten thousand of them: what is needed only to begin is let go of.
    """

    def __init__(self, services: Services, session: Session, channel: Channel) -> None:
        self._services = services
        self._session_id, self._session_no = session.session_id, session.no
        self._channel = channel
        self._reader_cursor = ReaderCursor(session.version)
        self._first_frame: frames.FeedFrame | None = None
        self._retry_ms: int | None = services.settings.stream.retry_ms  # to be said in the first frame
        self._has_ended = False
        self._live_reply: Reply | None = None  # the reply whose text continues at the reader's place
        self._stream: ResponseStream

    async def begin(self, session: Session, cursor: Cursor | None) -> None:
        """Find the reader's place. Raises LogUnavailable."""
        if cursor is None:
            self._reader_cursor = ReaderCursor(session.version, await self._current_offset(session))
            self._first_frame = await self._session_frame(session)
        elif cursor.version > self._channel.latest:
            self._first_frame = await self._resync(session.version)
        elif cursor.offset is None:
            log = self._services.log
            self._reader_cursor = ReaderCursor(
                cursor.version, await recorded_offset(log, session.session_id, cursor.version)
            )
        else:
            self._reader_cursor = ReaderCursor(cursor.version, cursor.offset)
        reply, written = self._services.supervisor.running_reply(self._session_id), session.open_reply
        if reply is not None and reply.version <= session.version:
            is_over = written is None or written.version != reply.version
            if is_over:  # Another node has ended it, or begun it anew, and its actor here does not know yet.
                self._reader_cursor = replace(self._reader_cursor, open_since=reply.version + 1)

    async def write(self, stream: ResponseStream) -> None:
        """Until the session or the service ends, or the reader leaves, which raises ConnectionError."""
        self._stream = stream
        try:
            if self._first_frame is not None:
                await self._send(self._first_frame)
                self._first_frame = None
            while not self._has_ended:
                # Waited for here, not in the step: a reader that waits for hours holds one frame less.
                if signals := await self._send_new():
                    await self._services.flush_scheduler.stream_updates(self._stream, self._take_news, *signals)
        except (LogError, ProjectionError) as error:
            # The reader comes back with its cursor, as if the connection had broken.
            self._services.logger.warning("feed.cut", reason=str(error))

    async def _send_new(self) -> tuple[Signal, ...]:
        """Tell what is new; where nothing is, give the bells to listen to. Between finding nothing and listening lies
        no await: nothing is missed."""
        erasures = self._channel.erasures
        new_events = await self._read_new_events()
        for recorded in new_events:
            await self._send_event(recorded)
            if recorded.event is None or self._has_ended or self._channel.erasures != erasures:
                return ()  # the place is another now, or none, or the rest of the news has been erased meanwhile
        if new_events:
            return ()
        self._live_reply = self._reply_at_cursor()
        if self._has_live_text():
            await self._stream.send(self._encode_live_text())
        elif self._services.feeds.closed:
            self._has_ended, self._retry_ms = True, self._services.settings.stream.retry_ms
            await self._send(frames.Draining(self._reader_cursor.version))
        else:
            return (
                (self._channel.signal,) if self._live_reply is None else (self._channel.signal, self._live_reply.signal)
            )
        return ()

    def _take_news(self) -> bytes | None:
        """The text that has grown; None for news that take more than a look."""
        if self._services.feeds.closed or self._channel.latest > self._reader_cursor.version:
            return None
        if self._live_reply is None and self._reply_at_cursor() is not None:
            return None  # its start had come here from the log before the reply itself
        return self._encode_live_text() if self._has_live_text() else b""

    def _reply_at_cursor(self) -> Reply | None:
        """The reply whose text continues at the reader's place."""
        reply = self._services.supervisor.running_reply(self._session_id)
        return reply if reply is not None and continues(self._reader_cursor, reply) else None

    def _has_live_text(self) -> bool:
        return self._live_reply is not None and self._live_reply.length > self._reader_cursor.offset

    def _encode_live_text(self) -> bytes:
        """The new text as a frame, which is encoded once for all readers that are at this place."""
        reply, before = self._live_reply, self._reader_cursor
        if reply is None:
            raise RuntimeError("only a reply grows")
        self._reader_cursor, text = advance_text(before, reply)
        key = (before.version, before.offset, self._reader_cursor.offset, self._retry_ms)
        if self._channel.encoded_chunk is None or self._channel.encoded_chunk[0] != key:
            chunk = frames.FeedChunk(text, reply.reply_id)
            encoded = frames.encode(
                chunk, self._reader_cursor.version, self._reader_cursor.offset, retry_ms=self._retry_ms
            )
            self._channel.encoded_chunk = key, encoded
        self._retry_ms = None
        return self._channel.encoded_chunk[1]

    async def _read_new_events(self) -> list[RecordedEvent]:
        """The events after the reader's place, or the first of them. Raises LogUnavailable."""
        kept = self._channel.after(self._reader_cursor.version)
        if kept is not None:
            return kept
        # No more than the channel keeps: a reader that takes nothing must not hold a long page in memory.
        after = self._reader_cursor.version
        found = await self._services.log.read(self._session_id, after=after, limit=KEPT_MAX, bytes_max=PIECE_BYTES)
        if not found:  # a database that has lost some of it: to look again at once would never end
            raise LogUnavailable("the log has not got what it had told of")
        return found

    async def _send_event(self, recorded: RecordedEvent) -> None:
        if recorded.event is None:
            await self._skip_erased()
            return
        before, event = self._reader_cursor, recorded.event
        self._reader_cursor, text = advance(before, recorded)
        if isinstance(event, ReplyEnded):
            if text:
                await self._send(frames.FeedChunk(text, event.reply_id), before.version, before.offset + len(text))
            created_at_us = await self._created_at_us(before, recorded, event)
            await self._send(terminal_frame(event.reply_id, recorded_outcome(event, recorded, created_at_us)))
        elif isinstance(event, ReplyProgressed):
            if text:
                await self._send(frames.FeedChunk(text, event.reply_id))
        elif frame := event_frame(recorded):
            await self._send(frame)

    async def _created_at_us(self, before: ReaderCursor, recorded: RecordedEvent, event: ReplyEnded) -> int:
        """When the reply started; 0 where nobody asks. Raises ProjectionError."""
        if before.reply_id == event.reply_id and before.started_at_us:
            return before.started_at_us
        if not isinstance(event, ReplyCompleted):
            return 0
        await self._services.runner.wait_for(recorded.position)
        row = await self._services.queries.message(self._session_no, event.reply_id)
        return row.created_at_us if row else 0

    async def _skip_erased(self) -> None:
        """What comes next is gone: with the session, or the session goes on without it."""
        (newest,) = await self._services.log.read(self._session_id, limit=1, backwards=True)
        if newest.type == "session_deleted":
            self._reader_cursor = ReaderCursor(newest.version)
            await self._send(frames.Deleted(newest.version))
        else:
            await self._send(await self._resync(newest.version))

    async def _resync(self, version: int) -> frames.Resync:
        self._reader_cursor = ReaderCursor(
            version, await recorded_offset(self._services.log, self._session_id, version)
        )
        return frames.Resync(version)

    async def _current_offset(self, session: Session) -> int:
        """What has been written so far of the reply that is open at the session's version."""
        reply = self._services.supervisor.running_reply(self._session_id)
        if session.open_reply is None:
            return 0
        if reply is not None and reply.version == session.open_reply.version:
            return reply.length
        return await recorded_offset(self._services.log, session.session_id, session.version)

    async def _session_frame(self, session: Session) -> frames.Session:
        """The session as it is; without a word where it has been erased meanwhile, which the feed is about to tell."""
        described = await self._services.reader.described([session])
        known = described[0] if described else SessionWithMetadata(session, {}, None)
        return frames.Session(session.session_id, known.title, known.metadata, session.version)

    async def _send(self, frame: frames.FeedFrame, version: int | None = None, offset: int | None = None) -> None:
        """At the reader's place, unless another is given. A session's last frame ends the stream for good."""
        version = self._reader_cursor.version if version is None else version
        offset = self._reader_cursor.offset if offset is None else offset
        encoded = frames.encode(frame, version, offset, retry_ms=self._retry_ms)
        self._retry_ms = None
        if isinstance(frame, frames.Expired | frames.Deleted):
            self._has_ended = True
            encoded += frames.DONE
        await self._stream.send(encoded)


def event_frame(recorded: RecordedEvent) -> frames.FeedFrame | None:
    """The frame that tells `recorded`; None for what only moves the cursor on."""
    event, version = recorded.event, recorded.version
    match event:
        case SessionCreated() | MetadataChanged():
            return frames.Session(recorded.stream_id, event.title, event.metadata, version)
        case MessagePosted():
            return _message_frame(recorded, event)
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


def _message_frame(recorded: RecordedEvent, posted: MessagePosted) -> frames.Message:
    return frames.Message(
        message_id=posted.message_id,
        parent_id=posted.parent_id,
        role=posted.role,  # type: ignore[arg-type]  # the log holds no other roles
        content=posted.content,
        created_at=timestamp(recorded.recorded_at_us),
        reply_id=posted.reply_id,
        version=recorded.version,
    )
