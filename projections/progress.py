"""How far the projections are, and whoever waits for them to get further."""

import asyncio
import heapq
from itertools import count

from projections.errors import ProjectionLag, ProjectionsStopped


class Progress:
    """The position reached. A waiter wakes when its own position is reached, and only then."""

    def __init__(self) -> None:
        self.position = 0
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = count()
        self._stopped: BaseException | None = None

    def reach(self, position: int) -> None:
        """The projections hold everything up to `position`; after a rebuild began, that is less than before."""
        self.position = position
        while self._waiters and self._waiters[0][0] <= position:
            waiter = heapq.heappop(self._waiters)[2]
            if not waiter.done():
                waiter.set_result(None)

    def stop(self, reason: BaseException) -> None:
        """Nothing more will be reached: tell everyone who waits, now and later."""
        self._stopped = reason
        for _, _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def resume(self) -> None:
        """The opposite of `stop`."""
        self._stopped = None

    async def wait_for(self, position: int, timeout_s: float) -> None:
        """Return once `position` is reached. Raises ProjectionLag after `timeout_s`, ProjectionsStopped when it
        never will be.
        """
        if self.position >= position:
            return
        if self._stopped is None:
            waiter = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiters, (position, next(self._tickets), waiter))
            try:
                async with asyncio.timeout(timeout_s):
                    await waiter
            except TimeoutError:
                raise ProjectionLag(position, self.position) from None
        if self.position < position:
            raise ProjectionsStopped(f"the projections stopped at position {self.position}") from self._stopped
