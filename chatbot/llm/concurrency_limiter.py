"""Limits concurrent replies (bulkhead): each gets a slot, a place in the bounded queue, or an immediate refusal."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from chatbot.llm.provider import LlmOverloaded

NEWEST_WEIGHT = 0.1  # of the newest reply in the moving average: about the last twenty count


class Slot:
    """A reply's slot: waiting, then running, then released. Made by ConcurrencyLimiter.acquire()."""

    def __init__(self, limiter: "ConcurrencyLimiter", granted: asyncio.Future[None] | None) -> None:
        self._limiter = limiter
        self._started_s = limiter.now() if granted is None else None
        self._granted = granted  # None: there was a free slot
        self._released = False

    async def ready(self) -> None:
        """Wait until this reply may run. Cancellation releases the slot."""
        if self._granted is None:
            return
        try:
            # shielded: release() sees in the future whether the slot was granted; only the limiter may resolve it
            await asyncio.shield(self._granted)
        except asyncio.CancelledError:
            self.release()
            raise
        self._started_s = self._limiter.now()

    def release(self) -> None:
        """Pass the slot on to the next reply. May be called at any time and any number of times."""
        if self._released:
            return
        self._released = True
        if self._granted is None or self._granted.done():
            if self._started_s is not None:
                self._limiter._record_duration(self._limiter.now() - self._started_s)
            self._limiter._grant_next()
        else:
            self._limiter._withdraw(self._granted)


class ConcurrencyLimiter:
    """First in, first out. `concurrent_max` replies run, `queue_max` wait."""

    def __init__(self, concurrent_max: int, queue_max: int, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now  # seconds
        self.mean_s = 0.0  # that a reply takes, as an exponential moving average; 0 until the first has ended
        self._concurrent_max = concurrent_max
        self._queue_max = queue_max
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """Replies that run."""
        return self._running

    @property
    def waiting(self) -> int:
        """Replies in the queue."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether the next reply would be refused."""
        return self._running >= self._concurrent_max and len(self._queue) >= self._queue_max

    @property
    def expected_wait_s(self) -> float:
        """Seconds that the next reply would wait, estimated from recent ones."""
        if self._running < self._concurrent_max:
            return 0.0
        return self.mean_s * (len(self._queue) + 1) / self._concurrent_max

    def acquire(self) -> Slot:
        """Returns immediately. Raises LlmOverloaded if the queue is full."""
        if self._running < self._concurrent_max:
            self._running += 1
            return Slot(self, None)
        if len(self._queue) >= self._queue_max:
            raise LlmOverloaded
        granted = asyncio.get_running_loop().create_future()
        self._queue.append(granted)
        return Slot(self, granted)

    def _record_duration(self, duration_s: float) -> None:
        """Update the average with a reply's duration."""
        self.mean_s += (duration_s - self.mean_s) * (NEWEST_WEIGHT if self.mean_s else 1.0)

    def _grant_next(self) -> None:
        """Give a free slot to the first in the queue."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._running -= 1

    def _withdraw(self, granted: asyncio.Future[None]) -> None:
        self._queue.remove(granted)
