"""The position that the projections have reached, with its waiters; and how the runner waits for what it folds next."""

import asyncio
from collections.abc import Callable

from projections.errors import ProjectionLag, ProjectionsStopped


class Progress:
    """The position reached. A waiter wakes when its own position is reached, and only then."""

    def __init__(self) -> None:
        self.position = 0
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._stopped: BaseException | None = None

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return len(self._waiters)

    @property
    def wanted(self) -> int:
        """The highest position that a waiter waits for; 0 if none waits."""
        return max(self._waiters.values(), default=0)

    def reach(self, position: int) -> None:
        """Everything up to `position` is folded. In a rebuild that is less than before."""
        self.position = position
        for waiter, wanted in self._waiters.items():
            if wanted <= position and not waiter.done():
                waiter.set_result(None)

    def stop(self, reason: BaseException) -> None:
        """No further position will be reached: wake present and refuse later waiters."""
        self._stopped = reason
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_for(self, position: int, timeout_s: float) -> None:
        """Return once `position` is reached. Raises ProjectionLag after `timeout_s`, ProjectionsStopped if it never
        will be.
        """
        if self.position >= position:
            return
        if self._stopped is None:
            await self._wait(position, timeout_s)
        if self._stopped is not None and self.position < position:
            raise ProjectionsStopped(f"the projections stopped at position {self.position}") from self._stopped

    async def _wait(self, position: int, timeout_s: float) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = position
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise ProjectionLag(position, self.position) from None
        finally:
            del self._waiters[waiter]


class Sleeper:
    """A sleep that ends when a condition holds, for one task at a time: it costs no task, whatever may end it. Whoever
    changes something that a condition depends on calls `notify`.
    """

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None  # while the task sleeps
        self._condition: Callable[[], bool] = _never

    def notify(self) -> None:
        """Wake the task if what it waits for is so now."""
        if self._future is not None and self._condition():
            self._wake()

    async def sleep(self, seconds: float | None, until: Callable[[], bool]) -> None:
        """Return once `until` is true, which must be cheap, or after `seconds` (None: no bound)."""
        if until():
            return
        loop = asyncio.get_running_loop()
        self._future, self._condition = loop.create_future(), until
        timer = None if seconds is None else loop.call_later(seconds, self._wake)
        try:
            await self._future
        finally:
            self._future, self._condition = None, _never
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


def _never() -> bool:
    return False
