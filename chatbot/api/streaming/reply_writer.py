"""One reply as a stream of frames, for a request that posted a message or asked for another reply."""

from chatbot.api.services import Services
from chatbot.api.streaming import frames
from chatbot.api.streaming.response_stream import ResponseStream
from chatbot.api.streaming.terminal_frames import terminal_frame
from chatbot.sessions.feeds.reader_cursor import ReaderCursor
from chatbot.sessions.replies.reply import Outcome, Reply


class ReplyWriter:
    """One reader of one reply: all that is new goes out as one frame, whenever there is something and the socket has
    room. `after` is the last frame that the reader has, of an earlier answer to the same request."""

    def __init__(self, services: Services, session_id: str, reply: Reply, after: ReaderCursor | None = None) -> None:
        self._session_id = session_id
        self._reply = reply
        self._retry_ms = services.settings.stream.retry_ms
        self._supervisor = services.supervisor
        self._flush_scheduler = services.flush_scheduler
        self._version = reply.version or reply.posted_version
        self._offset_ahead = self._length_ahead(self._version)
        self._has_start = after is not None and after.version >= self._version
        self._has_end = after is not None and reply.outcome is not None and after.version >= reply.outcome.version
        # At an earlier version the offset counts another reply's text, or an earlier attempt's at this one.
        self._offset = after.offset if after is not None and 0 < reply.version <= after.version else 0

    async def write(self, stream: ResponseStream) -> None:
        reply = self._reply
        if self._has_end:
            await stream.close(frames.DONE)
            return
        if not self._has_start:
            start = frames.Start(self._session_id, reply.reply_id, reply.message_id, self._version, reply.model)
            await stream.send(frames.encode(start, self._version, self._offset_ahead))
        await self._flush_scheduler.stream_updates(stream, self._take_news, reply.signal)
        last = self._unrecorded_frame(reply.length) if reply.outcome is None else self._terminal_frame(reply.outcome)
        await stream.close(self._encode_new_text() + last + frames.DONE)

    def _take_news(self) -> bytes | None:
        """All that is new; None once the reply's end is known."""
        reply = self._reply
        return self._encode_new_text() if reply.outcome is None and reply.unrecorded is None else None

    def _encode_new_text(self) -> bytes:
        reply, offset = self._reply, self._offset
        if reply.length <= offset:
            return b""
        self._offset = reply.length
        return frames.encode(frames.Chunk(reply.since(offset)), reply.version or self._version, self._offset)

    def _length_ahead(self, version: int) -> int:
        """What is written of the reply ahead of this one, if it was open at `version`: a feed need not repeat that."""
        running = self._supervisor.running_reply(self._session_id)
        is_ahead = running is not None and not self._reply.version and running.version <= version
        return running.length if running is not None and is_ahead else 0

    def _unrecorded_frame(self, offset: int) -> bytes:
        detail = "the reply's end cannot be recorded just now; follow the session for how it ended"
        version = self._reply.version or self._version
        status, title = "unrecorded", "Cannot record just now"
        failure = frames.Error(status, title, detail, detail, self._reply.reply_id, version, offset)
        return frames.encode(failure, version, offset + self._length_ahead(version))  # one of them is 0

    def _terminal_frame(self, outcome: Outcome) -> bytes:
        frame = terminal_frame(self._reply.reply_id, outcome)
        retry_ms = self._retry_ms if outcome.cause == "shutdown" else None
        return frames.encode(frame, outcome.version, self._length_ahead(outcome.version), retry_ms=retry_ms)
