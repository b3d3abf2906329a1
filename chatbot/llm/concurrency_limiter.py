"""How many replies may run and wait at a time: everybody gets a place, a place in the queue, or a refusal, at once."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from chatbot.llm.provider import LlmOverloaded

NEWEST_WEIGHT = 0.1  # of the newest reply in the mean: the last twenty or so count


class Slot:
    """A reply's place: waiting, then running, then left. Made by Gate.enter()."""

    def __init__(self, limiter: "ConcurrencyLimiter", granted: asyncio.Future[None] | None) -> None:
        self._limiter = limiter
        self._started_s = limiter.now() if granted is None else None
        self._granted = granted  # None: had its place from the start
        self._released = False

    async def ready(self) -> None:
        """Returns when it is this reply's turn. Being cancelled here gives up the place."""
        if self._granted is None:
            return
        try:
            # shielded: leave() tells by the future whether the turn had come, and the gate alone may settle it
            await asyncio.shield(self._granted)
        except asyncio.CancelledError:
            self.release()
            raise
        self._started_s = self._limiter.now()

    def release(self) -> None:
        """Gives the place to the next. May be called at any time and any number of times."""
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
    """First come, first served. `concurrent_max` replies run, `queue_max` wait."""

    def __init__(self, concurrent_max: int, queue_max: int, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now  # seconds
        self.mean_s = 0.0  # that a reply takes, the recent ones counting most; 0 until the first has ended
        self._concurrent_max = concurrent_max
        self._queue_max = queue_max
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """Replies that have their turn."""
        return self._running

    @property
    def waiting(self) -> int:
        """Replies in the queue."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether the next to enter would be refused."""
        return self._running >= self._concurrent_max and len(self._queue) >= self._queue_max

    @property
    def expected_wait_s(self) -> float:
        """Seconds that the next to come would wait, as far as recent replies tell."""
        if self._running < self._concurrent_max:
            return 0.0
        return self.mean_s * (len(self._queue) + 1) / self._concurrent_max

    def acquire(self) -> Slot:
        """Raises LlmOverloaded when the queue is full, too."""
        if self._running < self._concurrent_max:
            self._running += 1
            return Slot(self, None)
        if len(self._queue) >= self._queue_max:
            raise LlmOverloaded
        granted = asyncio.get_running_loop().create_future()
        self._queue.append(granted)
        return Slot(self, granted)

    def _record_duration(self, duration_s: float) -> None:
        """A reply took so long."""
        self.mean_s += (duration_s - self.mean_s) * (NEWEST_WEIGHT if self.mean_s else 1.0)

    def _grant_next(self) -> None:
        """A running reply has left: its place goes to the first in the queue."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._running -= 1

    def _withdraw(self, granted: asyncio.Future[None]) -> None:
        self._queue.remove(granted)
