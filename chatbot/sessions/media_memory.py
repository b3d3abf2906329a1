"""Memory for the files of the model requests that are being sent, bounded for the whole process."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MEDIA_MEMORY_BYTES = 268_435_456  # where no setting says otherwise


class MediaMemory:
    """Memory for files, in bytes: who comes first gets it first. Those who wait are replies with a slot of the model
    server, so llm.concurrent_max bounds them.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._free = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserved(self, size: int) -> AsyncIterator[None]:
        """Waits for `size` bytes and holds them. More than there are altogether: waits until all are free."""
        size = min(size, self._bytes_max)
        await self._reserve(size)
        try:
            yield
        finally:
            self._release(size)

    async def _reserve(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            self._release(0 if granted.cancelled() else size)
            raise

    def _release(self, size: int) -> None:
        self._free += size
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            wanted, granted = self._waiting.popleft()
            if not granted.done():
                self._free -= wanted
                granted.set_result(None)
