"""One reader that follows the whole log: what was recorded, then what is being recorded."""

import asyncio

import msgspec

from chatbot.api.audit_views import Closing
from chatbot.api.event_stream import EventStream
from chatbot.api.services import Services
from chatbot.audit.trail import PAGE_ROWS, encode_row
from chatbot.sessions.bell import Bell, heard
from chatbot.sessions.leisure import PIECE_BYTES, Leisure
from events.errors import LogError

WHOLE_LOG = ""  # in the place of a session's id, where the readers of feeds are counted and sent away


class LogFollower:
    """A cursor, never a queue: the reader's position. A frame's id is the position of its event."""

    def __init__(self, services: Services, after: int, leisure: Leisure) -> None:
        self._services = services
        self._leisure = leisure
        self._position = after
        self._retry = b"retry: %d\n" % services.settings.stream.retry_ms  # to be said in the first frame

    async def write(self, stream: EventStream) -> None:
        """Until the service ends or the reader leaves, which raises ConnectionError."""
        with self._services.feeds.open(WHOLE_LOG) as channel:
            try:
                while await self._step(stream, channel.bell):
                    pass
            except LogError as error:
                # The reader comes back with its position, as if the connection had broken.
                self._services.logger.warning("trail.cut", reason=str(error))

    async def _step(self, stream: EventStream, closing: Bell) -> bool:
        """Send what is there, or wait for more; False when the stream is over."""
        rows = await self._services.log.rows(after=self._position, limit=PAGE_ROWS, bytes_max=PIECE_BYTES)
        if rows:
            with self._leisure.work():
                frames = b"".join(self._frame(row.position, encode_row(row)) for row in rows)
            is_far_behind = len(rows) == PAGE_ROWS or len(frames) >= PIECE_BYTES
            self._position = rows[-1].position
            del rows  # a reader that takes nothing holds one page, encoded
            await stream.send(frames)
            if is_far_behind:  # what is new is sent at once, what is old at leisure
                await self._leisure.turn()
        elif self._services.feeds.closed:
            self._retry = b"retry: %d\n" % self._services.settings.stream.retry_ms
            await stream.send(self._frame(self._position, msgspec.json.encode(Closing(self._position))))
            return False
        else:
            await self._moved(closing)
        return True

    def _frame(self, position: int, data: bytes) -> bytes:
        retry, self._retry = self._retry, b""
        return b"%bid: %d\ndata: %b\n\n" % (retry, position, data)

    async def _moved(self, closing: Bell) -> None:
        """Wait until the log is past the reader's position, or the service goes down."""
        moved = Bell()

        def ring(waiting: asyncio.Task[object]) -> None:
            if not waiting.cancelled():
                waiting.exception()  # a log that is closed says so again when it is read
            moved.ring()

        waiting = asyncio.create_task(self._services.log.wait(self._position), name="log-follower")
        waiting.add_done_callback(ring)
        try:
            await heard(closing, moved)
        finally:
            waiting.cancel()
