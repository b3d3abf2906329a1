"""A catch-up subscription to the whole log: recorded events, then new ones as they are appended."""

import asyncio

import msgspec

from chatbot.api.audit_response_bodies import Closing
from chatbot.api.services import Services
from chatbot.api.streaming.response_stream import ResponseStream, encode_event
from chatbot.audit.event_view import PAGE_ROWS, encode_row
from chatbot.audit.search.event_filter import EventFilter
from chatbot.runtime.throttle import PIECE_BYTES, DutyCycleThrottle
from chatbot.sessions.feeds.channels import Signal, wait_any
from events.errors import LogError

WHOLE_LOG = ""  # the channel's key, in place of a session id: its readers are counted and ended with the feeds


class LogFeedWriter:
    """One reader, as a position in the log and without a queue. A frame's id is the position of its event."""

    def __init__(self, services: Services, after: int, throttle: DutyCycleThrottle, events: EventFilter) -> None:
        self._services = services
        self._events = events
        self._throttle = throttle
        self._position = after
        self._retry_ms: int | None = services.settings.stream.retry_ms  # sent with the first frame only

    async def write(self, stream: ResponseStream) -> None:
        """Until the service ends or the reader leaves, which raises ConnectionError."""
        with self._services.feeds.open_list(WHOLE_LOG) as channel:
            try:
                while await self._send_next(stream, channel.signal):
                    pass
            except LogError as error:
                # The reader returns with its position, as if the connection had broken.
                self._services.logger.warning("trail.cut", reason=str(error))

    async def _send_next(self, stream: ResponseStream, shutdown_signal: Signal) -> bool:
        """Send the next events, or wait for more; False at the end of the stream."""
        rows = await self._services.log.rows(after=self._position, limit=PAGE_ROWS, bytes_max=PIECE_BYTES)
        if rows:
            with self._throttle.measure():
                matching = [row for row in rows if self._events.matches(row)]
                frames = b"".join(self._frame(row.position, encode_row(row)) for row in matching)
                if not matching or matching[-1] is not rows[-1]:
                    frames += b"id: %d\n\n" % rows[-1].position  # without data: only the position to resume from
            is_far_behind = len(rows) == PAGE_ROWS or len(frames) >= PIECE_BYTES
            self._position = rows[-1].position
            del rows, matching  # a reader that takes nothing holds one page, encoded
            await stream.send(frames)
            if is_far_behind:  # new events are sent immediately, old ones at the throttle's pace
                await self._throttle.wait()
        elif self._services.feeds.closed:
            self._retry_ms = self._services.settings.stream.retry_ms
            await stream.send(self._frame(self._position, msgspec.json.encode(Closing(self._position))))
            return False
        else:
            await self._wait_for_append(shutdown_signal)
        return True

    def _frame(self, position: int, data: bytes) -> bytes:
        retry_ms, self._retry_ms = self._retry_ms, None
        return encode_event(b"%d" % position, data, retry_ms)

    async def _wait_for_append(self, shutdown_signal: Signal) -> None:
        """Wait until the log is beyond the reader's position, or the service stops."""
        appended = Signal()

        def notify(waiting: asyncio.Task[object]) -> None:
            if not waiting.cancelled():
                waiting.exception()  # retrieved only: a closed log raises again when it is read
            appended.notify()

        waiting = asyncio.create_task(self._services.log.wait(self._position), name="log-follower")
        waiting.add_done_callback(notify)
        try:
            await wait_any(shutdown_signal, appended)
        finally:
            waiting.cancel()
