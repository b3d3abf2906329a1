"""Who is told what the projections do: metrics, logs and the progress that an operator watches.

How far the projections are, and whoever waits for them to get further.
"""

import asyncio
from typing import Protocol

from projections.errors import ProjectionLag, ProjectionsStopped


class ProjectionObserver(Protocol):
    """Called on the event loop. Must neither block nor raise."""

    def applied(self, events: int, seconds: float) -> None:
        """A batch of `events` was folded and written."""
        ...

    def progress(self, position: int, head: int) -> None:
        """After each batch while catching up, at start and in a rebuild: how far, of how much."""
        ...

    def rebuilt(self, reason: str) -> None:
        """The file is being deleted and the log folded again from its first event."""
        ...

    def adopted(self, position: int) -> None:
        """The file that a rebuild has made, folded up to `position`, has taken the present one's place."""
        ...

    def failed(self, error: BaseException) -> None:
        """Something went wrong. It is tried again, unless the runner's `failure` is set."""
        ...


class NoObserver:
    """Tells nobody."""

    def applied(self, events: int, seconds: float) -> None:
        """As ProjectionObserver.applied."""

    def progress(self, position: int, head: int) -> None:
        """As ProjectionObserver.progress."""

    def rebuilt(self, reason: str) -> None:
        """As ProjectionObserver.rebuilt."""

    def adopted(self, position: int) -> None:
        """As ProjectionObserver.adopted."""

    def failed(self, error: BaseException) -> None:
        """As ProjectionObserver.failed."""


class Progress:
    """The position reached. A waiter wakes when its own position is reached, and only then."""

    def __init__(self) -> None:
        self.position = 0
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._stopped: BaseException | None = None

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiters)

    def reach(self, position: int) -> None:
        """The projections hold everything up to `position`, which in a rebuild is less than it was before."""
        self.position = position
        for waiter, wanted in self._waiters.items():
            if wanted <= position and not waiter.done():
                waiter.set_result(None)

    def stop(self, reason: BaseException) -> None:
        """Nothing more will be reached: tell everyone who waits, now and later."""
        self._stopped = reason
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_for(self, position: int, timeout_s: float) -> None:
        """Return once `position` is reached. Raises ProjectionLag after `timeout_s`, ProjectionsStopped when it
        never will be.
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
