"""The end of the log in memory, and whoever waits for it to move."""

import asyncio

from events.errors import LogUnavailable
from events.record import Head


class HeadNotifier:
    """The last committed position and digest. Waiters wake at the commit; nobody polls."""

    def __init__(self, head: Head) -> None:
        self.current = head
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed: str | None = None

    def advance(self, head: Head) -> None:
        """The store has committed up to `head`."""
        self.current = head
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, position: int) -> Head:
        """The head, once it is past `position`. Raises LogUnavailable when it will never move again."""
        while self.current.position <= position:
            if self._closed is not None:
                raise LogUnavailable(self._closed)
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.current

    def close(self, reason: str) -> None:
        """Let everyone who waits know that nothing more will come."""
        self._closed = reason
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
