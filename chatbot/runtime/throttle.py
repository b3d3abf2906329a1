"""Big work that nobody waits for by the millisecond takes its time: chat goes first."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from events.log import EventLog
from events.record import StoredRow

T = TypeVar("T")

REST_RATIO = 11.0  # seconds of rest for each second of work: all big work together has a twelfth of the loop's time
PIECE_ROWS = 250  # read and worked on at once: a millisecond; 2,000 took eight, which turns of chat met
PIECE_BYTES = 131_072  # of content in such a piece, or one event: what each of many readers of long texts holds
REST_MAX_S = 0.25  # for one piece, however long the disk made it wait


class DutyCycleThrottle:
    """One for all big work of its kind, done in pieces: before each piece comes the rest that those before have earned.

    So a single small piece of work waits for nothing, and many readers of big things get no more than one of them.
    """

    def __init__(self, rest_ratio: float = REST_RATIO) -> None:
        self._rest_ratio = rest_ratio
        self._next_start_s = 0.0
        self._lock = asyncio.Lock()

    async def wait(self) -> None:
        """Return when the next piece may begin. Always lets the loop go round once, so that no work holds it."""
        await asyncio.sleep(0)
        while (wait_s := self._next_start_s - time.monotonic()) > 0:  # noqa: ASYNC110  a time, which others move on, is no event
            await asyncio.sleep(wait_s)

    def charge(self, worked_s: float) -> None:
        """A piece of work took so many seconds."""
        self._next_start_s = max(self._next_start_s, time.monotonic()) + min(worked_s * self._rest_ratio, REST_MAX_S)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """A piece of work."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.charge(time.monotonic() - began_s)

    @asynccontextmanager
    async def piece(self) -> AsyncIterator[None]:
        """A turn, and a piece of work that waits for something, such as the disk. One at a time: side by side, each
        would rest for the time that it waited for the others.
        """
        async with self._lock:
            await self.wait()
            with self.measure():
                yield


def batched(things: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """`things` in pieces of at most so many."""
    return (things[first : first + most] for first in range(0, len(things), most))


class ThrottledLog:
    """The rows of a log, a page at each turn: PIECE_ROWS and about PIECE_BYTES at most, however many are asked for."""

    def __init__(self, log: EventLog, throttle: DutyCycleThrottle) -> None:
        self._log = log
        self._throttle = throttle
        self._read_s = 0.0

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        """As EventLog.rows, but fewer may come than there are."""
        await self._throttle.wait()
        with self._throttle.measure():
            page = await self._log.rows(after=after, limit=min(limit, PIECE_ROWS), bytes_max=PIECE_BYTES)
        self._read_s = time.monotonic()
        return page

    async def stream_rows(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int = PIECE_BYTES
    ) -> list[StoredRow]:
        """As EventLog.stream_rows, but fewer may come than there are."""
        await self._throttle.wait()
        with self._throttle.measure():
            page_max = min(limit, PIECE_ROWS)
            most = min(bytes_max, PIECE_BYTES)
            return await self._log.stream_rows(stream_id, after=after, limit=page_max, bytes_max=most)

    def passed(self, _position: int) -> None:
        """The page read last has been worked on since it was read: a progress that `verify` may tell."""
        self._throttle.charge(time.monotonic() - self._read_s)
