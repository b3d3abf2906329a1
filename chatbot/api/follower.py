"""One reader of a session's feed: its place, and what it is sent there."""

from msgspec.structs import replace

from chatbot.api import frames
from chatbot.api.cursors import Cursor
from chatbot.api.endings import last_frame
from chatbot.api.event_stream import EventStream
from chatbot.api.feed_frames import frame_of
from chatbot.api.services import Services
from chatbot.sessions.bell import Bell
from chatbot.sessions.feeds import KEPT_MAX, Channel
from chatbot.sessions.following import Place, advance, grown, is_at
from chatbot.sessions.leisure import PIECE_BYTES
from chatbot.sessions.outcome import outcome_at
from chatbot.sessions.reading import Described
from chatbot.sessions.recorded_text import recorded_offset
from chatbot.sessions.reply import Reply
from events.catalogue import ReplyCompleted, ReplyEnded, ReplyProgressed
from events.errors import LogError, LogUnavailable
from events.record import RecordedEvent
from projections.errors import ProjectionError
from projections.session import Session


class Follower:
    """One reader's way through one session: recorded events first, then the text that grows, then wait for more.

    There may be ten thousand of them: what is needed only to begin is let go of.
    """

    def __init__(self, services: Services, session: Session, channel: Channel) -> None:
        self._services = services
        self._session_id, self._session_no = session.session_id, session.no
        self._channel = channel
        self._place = Place(session.version)
        self._first: frames.FeedFrame | None = None
        self._retry_ms: int | None = services.settings.stream.retry_ms  # to be said in the first frame
        self._over = False
        self._growing: Reply | None = None  # the reply whose text continues at the reader's place
        self._stream: EventStream

    async def begin(self, session: Session, cursor: Cursor | None) -> None:
        """Find the reader's place. Raises LogUnavailable."""
        if cursor is None:
            self._place = Place(session.version, await self._offset_now(session))
            self._first = await self._described(session)
        elif cursor.version > self._channel.latest:
            self._first = await self._resync(session.version)
        elif cursor.offset is None:
            log = self._services.log
            self._place = Place(cursor.version, await recorded_offset(log, session.session_id, cursor.version))
        else:
            self._place = Place(cursor.version, cursor.offset)
        reply, written = self._services.supervisor.running_reply(self._session_id), session.open_reply
        if reply is not None and reply.version <= session.version:
            is_over = written is None or written.version != reply.version
            if is_over:  # Another node has ended it, or begun it anew, and its actor here does not know yet.
                self._place = replace(self._place, open_since=reply.version + 1)

    async def write(self, stream: EventStream) -> None:
        """Until the session or the service ends, or the reader leaves, which raises ConnectionError."""
        self._stream = stream
        try:
            if self._first is not None:
                await self._send(self._first)
                self._first = None
            while not self._over:
                # Waited for here, not in the step: a reader that waits for hours holds one frame less.
                if bells := await self._step():
                    await self._services.pourer.pour(self._stream, self._look, *bells)
        except (LogError, ProjectionError) as error:
            # The reader comes back with its cursor, as if the connection had broken.
            self._services.logger.warning("feed.cut", reason=str(error))

    async def _step(self) -> tuple[Bell, ...]:
        """Tell what is new; where nothing is, give the bells to listen to. Between finding nothing and listening lies
        no await: nothing is missed."""
        erasures = self._channel.erasures
        news = await self._news()
        for recorded in news:
            await self._tell(recorded)
            if recorded.event is None or self._over or self._channel.erasures != erasures:
                return ()  # the place is another now, or none, or the rest of the news has been erased meanwhile
        if news:
            return ()
        self._growing = self._continuing()
        if self._has_grown():
            await self._stream.send(self._grown())
        elif self._services.feeds.closed:
            self._over, self._retry_ms = True, self._services.settings.stream.retry_ms
            await self._send(frames.Draining(self._place.version))
        else:
            return (self._channel.bell,) if self._growing is None else (self._channel.bell, self._growing.bell)
        return ()

    def _look(self) -> bytes | None:
        """The text that has grown; None for news that take more than a look."""
        if self._services.feeds.closed or self._channel.latest > self._place.version:
            return None
        if self._growing is None and self._continuing() is not None:
            return None  # its start had come here from the log before the reply itself
        return self._grown() if self._has_grown() else b""

    def _continuing(self) -> Reply | None:
        """The reply whose text continues at the reader's place."""
        reply = self._services.supervisor.running_reply(self._session_id)
        return reply if reply is not None and is_at(self._place, reply) else None

    def _has_grown(self) -> bool:
        return self._growing is not None and self._growing.length > self._place.offset

    def _grown(self) -> bytes:
        """The new text as a frame, which is encoded once for all readers that are at this place."""
        reply, before = self._growing, self._place
        if reply is None:
            raise RuntimeError("only a reply grows")
        self._place, text = grown(before, reply)
        key = (before.version, before.offset, self._place.offset, self._retry_ms)
        if self._channel.newest is None or self._channel.newest[0] != key:
            chunk = frames.FeedChunk(text, reply.reply_id)
            encoded = frames.encode(chunk, self._place.version, self._place.offset, retry_ms=self._retry_ms)
            self._channel.newest = key, encoded
        self._retry_ms = None
        return self._channel.newest[1]

    async def _news(self) -> list[RecordedEvent]:
        """The events after the reader's place, or the first of them. Raises LogUnavailable."""
        kept = self._channel.after(self._place.version)
        if kept is not None:
            return kept
        # No more than the channel keeps: a reader that takes nothing must not hold a long page in memory.
        after = self._place.version
        found = await self._services.log.read(self._session_id, after=after, limit=KEPT_MAX, bytes_max=PIECE_BYTES)
        if not found:  # a database that has lost some of it: to look again at once would never end
            raise LogUnavailable("the log has not got what it had told of")
        return found

    async def _tell(self, recorded: RecordedEvent) -> None:
        if recorded.event is None:
            await self._past_erasure()
            return
        before, event = self._place, recorded.event
        self._place, text = advance(before, recorded)
        if isinstance(event, ReplyEnded):
            if text:
                await self._send(frames.FeedChunk(text, event.reply_id), before.version, before.offset + len(text))
            created_at_us = await self._created_at_us(before, recorded, event)
            await self._send(last_frame(event.reply_id, outcome_at(event, recorded, created_at_us)))
        elif isinstance(event, ReplyProgressed):
            if text:
                await self._send(frames.FeedChunk(text, event.reply_id))
        elif frame := frame_of(recorded):
            await self._send(frame)

    async def _created_at_us(self, before: Place, recorded: RecordedEvent, event: ReplyEnded) -> int:
        """When the reply started; 0 where nobody asks. Raises ProjectionError."""
        if before.reply_id == event.reply_id and before.started_at_us:
            return before.started_at_us
        if not isinstance(event, ReplyCompleted):
            return 0
        await self._services.runner.wait_for(recorded.position)
        row = await self._services.queries.message(self._session_no, event.reply_id)
        return row.created_at_us if row else 0

    async def _past_erasure(self) -> None:
        """What comes next is gone: with the session, or the session goes on without it."""
        (newest,) = await self._services.log.read(self._session_id, limit=1, backwards=True)
        if newest.type == "session_deleted":
            self._place = Place(newest.version)
            await self._send(frames.Deleted(newest.version))
        else:
            await self._send(await self._resync(newest.version))

    async def _resync(self, version: int) -> frames.Resync:
        self._place = Place(version, await recorded_offset(self._services.log, self._session_id, version))
        return frames.Resync(version)

    async def _offset_now(self, session: Session) -> int:
        """What has been written so far of the reply that is open at the session's version."""
        reply = self._services.supervisor.running_reply(self._session_id)
        if session.open_reply is None:
            return 0
        if reply is not None and reply.version == session.open_reply.version:
            return reply.length
        return await recorded_offset(self._services.log, session.session_id, session.version)

    async def _described(self, session: Session) -> frames.Session:
        """The session as it is; without a word where it has been erased meanwhile, which the feed is about to tell."""
        described = await self._services.reader.described([session])
        known = described[0] if described else Described(session, {}, None)
        return frames.Session(session.session_id, known.title, known.metadata, session.version)

    async def _send(self, frame: frames.FeedFrame, version: int | None = None, offset: int | None = None) -> None:
        """At the reader's place, unless another is given. A session's last frame ends the stream for good."""
        version = self._place.version if version is None else version
        offset = self._place.offset if offset is None else offset
        encoded = frames.encode(frame, version, offset, retry_ms=self._retry_ms)
        self._retry_ms = None
        if isinstance(frame, frames.Expired | frames.Deleted):
            self._over = True
            encoded += frames.DONE
        await self._stream.send(encoded)
