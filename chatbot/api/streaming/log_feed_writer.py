"""One reader that follows the whole log: what was recorded, then what is being recorded."""

import asyncio

import msgspec

from chatbot.api.audit_response_bodies import Closing
from chatbot.api.services import Services
from chatbot.api.streaming.response_stream import ResponseStream
from chatbot.audit.event_view import PAGE_ROWS, encode_row
from chatbot.runtime.throttle import PIECE_BYTES, DutyCycleThrottle
from chatbot.sessions.feeds.channels import Signal, wait_any
from events.errors import LogError

WHOLE_LOG = ""  # in the place of a session's id, where the readers of feeds are counted and sent away


class LogFeedWriter:
    """A cursor, never a queue: the reader's position. A frame's id is the position of its event."""

    def __init__(self, services: Services, after: int, throttle: DutyCycleThrottle) -> None:
        self._services = services
        self._throttle = throttle
        self._position = after
        self._retry = b"retry: %d\n" % services.settings.stream.retry_ms  # to be said in the first frame

    async def write(self, stream: ResponseStream) -> None:
        """Until the service ends or the reader leaves, which raises ConnectionError."""
        with self._services.feeds.open(WHOLE_LOG) as channel:
            try:
                while await self._send_next(stream, channel.signal):
                    pass
            except LogError as error:
                # The reader comes back with its position, as if the connection had broken.
                self._services.logger.warning("trail.cut", reason=str(error))

    async def _send_next(self, stream: ResponseStream, shutdown_signal: Signal) -> bool:
        """Send what is there, or wait for more; False when the stream is over."""
        rows = await self._services.log.rows(after=self._position, limit=PAGE_ROWS, bytes_max=PIECE_BYTES)
        if rows:
            with self._throttle.measure():
                frames = b"".join(self._frame(row.position, encode_row(row)) for row in rows)
            is_far_behind = len(rows) == PAGE_ROWS or len(frames) >= PIECE_BYTES
            self._position = rows[-1].position
            del rows  # a reader that takes nothing holds one page, encoded
            await stream.send(frames)
            if is_far_behind:  # what is new is sent at once, what is old at leisure
                await self._throttle.wait()
        elif self._services.feeds.closed:
            self._retry = b"retry: %d\n" % self._services.settings.stream.retry_ms
            await stream.send(self._frame(self._position, msgspec.json.encode(Closing(self._position))))
            return False
        else:
            await self._wait_for_append(shutdown_signal)
        return True

    def _frame(self, position: int, data: bytes) -> bytes:
        retry, self._retry = self._retry, b""
        return b"%bid: %d\ndata: %b\n\n" % (retry, position, data)

    async def _wait_for_append(self, shutdown_signal: Signal) -> None:
        """Wait until the log is past the reader's position, or the service goes down."""
        appended = Signal()

        def notify(waiting: asyncio.Task[object]) -> None:
            if not waiting.cancelled():
                waiting.exception()  # a log that is closed says so again when it is read
            appended.notify()

        waiting = asyncio.create_task(self._services.log.wait(self._position), name="log-follower")
        waiting.add_done_callback(notify)
        try:
            await wait_any(shutdown_signal, appended)
        finally:
            waiting.cancel()
