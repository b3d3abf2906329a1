"""Coalesced refreshes of the head: everyone who asks before a query begins shares its answer (single flight)."""

import asyncio
from collections.abc import Awaitable, Callable

from events.errors import LogUnavailable
from events.record import Head


class SharedRefresh:
    """Runs `query` for all callers that wait, one query at a time. Must be closed.

    A query that is under way may have read the head before a caller asked: that caller shares the next one.
    """

    def __init__(self, query: Callable[[], Awaitable[Head]]) -> None:
        self._query = query
        self._running: asyncio.Task[Head] | None = None
        self._next: asyncio.Task[Head] | None = None  # has not begun its query
        self._closed: str | None = None

    def request(self) -> asyncio.Task[Head]:
        """Have a query begin soon, without waiting for it."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running), name="log-head-refresh")
            self._next.add_done_callback(_mark_retrieved)
        return self._next

    async def latest(self) -> Head:
        """The answer of a query that began after this call. Raises what `query` raises, LogUnavailable once closed."""
        if self._closed is not None:
            raise LogUnavailable(self._closed)
        task = self.request()
        await asyncio.wait([task])
        if task.cancelled():
            raise LogUnavailable(self._closed or "the log is closed")
        return task.result()

    async def close(self, reason: str) -> None:
        """Cancel what runs; callers that wait get LogUnavailable with `reason`."""
        self._closed = reason
        tasks = [task for task in (self._running, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, before: asyncio.Task[Head] | None) -> Head:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._running, self._next = asyncio.current_task(), None
        return await self._query()


def _mark_retrieved(task: asyncio.Task[Head]) -> None:
    """All callers may be gone: an exception that nobody awaits is not an error of the program."""
    if not task.cancelled():
        task.exception()
