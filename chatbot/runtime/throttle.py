"""Duty-cycle throttle for large background work (exports, verification, expiry), so that chat requests go first."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from events.log import EventLog
from events.record import StoredRow

T = TypeVar("T")

REST_RATIO = 11.0  # seconds of rest for each second of work: throttled work gets a twelfth of the loop's time
PIECE_ROWS = 250  # read and worked on at once: a millisecond; 2,000 took eight, which delayed chat requests
PIECE_BYTES = 131_072  # of content in such a piece, or one event: the memory of each reader of long texts
REST_MAX_S = 0.25  # after one piece, however long it waited for the disk


class DutyCycleThrottle:
    """Shared by all work of a kind, which is done in pieces: each piece waits for the rest that earlier ones require.

    So a single small piece does not wait, and many concurrent exports together get no more time than one.
    """

    def __init__(self, rest_ratio: float = REST_RATIO) -> None:
        self._rest_ratio = rest_ratio
        self._next_start_s = 0.0
        self._lock = asyncio.Lock()

    async def wait(self) -> None:
        """Return when the next piece may begin. Always yields to the event loop once."""
        await asyncio.sleep(0)
        while (wait_s := self._next_start_s - time.monotonic()) > 0:  # noqa: ASYNC110  others postpone the start meanwhile
            await asyncio.sleep(wait_s)

    def charge(self, worked_s: float) -> None:
        """Account for a piece of work that took so many seconds."""
        self._next_start_s = max(self._next_start_s, time.monotonic()) + min(worked_s * self._rest_ratio, REST_MAX_S)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Measure and charge a piece of work."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.charge(time.monotonic() - began_s)

    @asynccontextmanager
    async def piece(self) -> AsyncIterator[None]:
        """Wait, then measure a piece of work that waits for I/O. One at a time: concurrent pieces would also be charged
        for the time that they wait for each other.
        """
        async with self._lock:
            await self.wait()
            with self.measure():
                yield


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in slices of at most `size`."""
    return (items[first : first + size] for first in range(0, len(items), size))


class ThrottledLog:
    """Reads the rows of a log through the throttle, at most PIECE_ROWS and about PIECE_BYTES at a time."""

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
        """Progress callback of `verify`: charges the time since the last page was read."""
        self._throttle.charge(time.monotonic() - self._read_s)
