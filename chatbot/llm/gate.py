"""How many replies may run and wait at a time: everybody gets a place, a place in the queue, or a refusal, at once."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from chatbot.llm.errors import LlmOverloaded

NEWEST_WEIGHT = 0.1  # of the newest reply in the mean: the last twenty or so count


class Ticket:
    """A reply's place: waiting, then running, then left. Made by Gate.enter()."""

    def __init__(self, gate: "Gate", turn: asyncio.Future[None] | None) -> None:
        self._gate = gate
        self._started_s = gate.now() if turn is None else None
        self._turn = turn  # None: had its place from the start
        self._left = False

    async def ready(self) -> None:
        """Returns when it is this reply's turn. Being cancelled here gives up the place."""
        if self._turn is None:
            return
        try:
            # shielded: leave() tells by the future whether the turn had come, and the gate alone may settle it
            await asyncio.shield(self._turn)
        except asyncio.CancelledError:
            self.leave()
            raise
        self._started_s = self._gate.now()

    def leave(self) -> None:
        """Gives the place to the next. May be called at any time and any number of times."""
        if self._left:
            return
        self._left = True
        if self._turn is None or self._turn.done():
            if self._started_s is not None:
                self._gate._note(self._gate.now() - self._started_s)
            self._gate._next()
        else:
            self._gate._forget(self._turn)


class Gate:
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

    def enter(self) -> Ticket:
        """Raises LlmOverloaded when the queue is full, too."""
        if self._running < self._concurrent_max:
            self._running += 1
            return Ticket(self, None)
        if len(self._queue) >= self._queue_max:
            raise LlmOverloaded
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        return Ticket(self, turn)

    def _note(self, duration_s: float) -> None:
        """A reply took so long."""
        self.mean_s += (duration_s - self.mean_s) * (NEWEST_WEIGHT if self.mean_s else 1.0)

    def _next(self) -> None:
        """A running reply has left: its place goes to the first in the queue."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self._running -= 1

    def _forget(self, turn: asyncio.Future[None]) -> None:
        self._queue.remove(turn)
