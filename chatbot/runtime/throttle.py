"""Duty-cycle throttle for large background work (exports, verification, expiry), so that chat requests go first."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from chatbot.runtime.fair_limit import Owner
from chatbot.runtime.fair_queue import FairQueue
from events.log import EventLog
from events.record import StoredRow

T = TypeVar("T")

REST_RATIO = 11.0  # seconds of rest for each second of work: throttled work gets a twelfth of the loop's time
PIECE_ROWS = 250  # read and worked on at once: a millisecond; 2,000 took eight, which delayed chat requests
PIECE_BYTES = 131_072  # of content in such a piece, or one event: the memory of each reader of long texts
REST_MAX_S = 0.25  # after one piece, however long it waited for the disk
HOLD_MAX_S = 0.25  # that others wait for the end of a piece: one that the disk makes wait does not stop the rest


class PieceQueue:
    """When pieces of work may begin, and whose is next."""

    def __init__(self) -> None:
        self._next_start_s = 0.0
        self._hold_until_s = 0.0  # while a piece has begun and not ended
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, owner: Owner) -> None:
        """Return when a piece of `owner` may begin."""
        if not self._queue.total and self._start_s <= time.monotonic():
            self._begin(owner)
            return
        may_begin = asyncio.get_running_loop().create_future()
        self._queue.push((owner,), may_begin)
        self._schedule()
        try:
            await asyncio.shield(may_begin)  # only the queue may resolve it
        except asyncio.CancelledError:
            if may_begin.done():
                self.rest(0.0)  # it was this one's turn
            else:
                self._queue.remove((owner,), may_begin)
            raise

    def rest(self, rest_s: float) -> None:
        """A piece has ended: the next one begins so many seconds later."""
        self._hold_until_s = 0.0
        self._next_start_s = max(self._next_start_s, time.monotonic()) + rest_s
        self._schedule()

    @property
    def _start_s(self) -> float:
        return max(self._next_start_s, self._hold_until_s)

    def _begin(self, owner: Owner) -> None:
        self._queue.begin_round((owner,))
        self._hold_until_s = time.monotonic() + HOLD_MAX_S

    def _schedule(self) -> None:
        """Have the next piece begin when it may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue.total:
            wait_s = max(0.0, self._start_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._begin_next)

    def _begin_next(self) -> None:
        self._timer = None
        if self._queue.total and self._start_s <= time.monotonic():
            owner = next(iter(self._queue.keys))
            may_begin = self._queue.pop(owner)
            self._hold_until_s = time.monotonic() + HOLD_MAX_S
            may_begin.set_result(None)
        self._schedule()


class DutyCycleThrottle:
    """Shared by all work of a kind, which is done in pieces: each piece waits for the rest that earlier ones require.

    So a single small piece does not wait, and many concurrent exports together get no more time than one. Those that
    wait begin one by one, round robin by owner (`of`): however many exports one owner has, another's one has as much
    time as all of them. The next piece begins after the end of the one before, or after HOLD_MAX_S if that takes long.
    """

    def __init__(self, rest_ratio: float = REST_RATIO, pieces: "PieceQueue | None" = None, owner: Owner = None) -> None:
        self._rest_ratio = rest_ratio
        self._pieces = pieces if pieces is not None else PieceQueue()
        self._owner = owner

    def of(self, owner: Owner) -> "DutyCycleThrottle":
        """This throttle for the work of one owner."""
        return DutyCycleThrottle(self._rest_ratio, self._pieces, owner)

    async def wait(self) -> None:
        """Return when the next piece may begin. Always yields to the event loop once."""
        await asyncio.sleep(0)
        await self._pieces.wait(self._owner)

    def charge(self, worked_s: float) -> None:
        """Account for a piece of work that took so many seconds."""
        self._pieces.rest(min(worked_s * self._rest_ratio, REST_MAX_S))

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
        """Wait, then measure a piece of work that waits for I/O."""
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
