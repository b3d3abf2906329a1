"""Waits for the head of a log that another process writes: one request to it for all callers of this process."""

import asyncio
from collections.abc import Awaitable, Callable

from events.errors import LogError
from events.record import Head
from events.storage.group_commit import HeadNotifier

RETRY_S = 0.5  # after the writer could not be asked
PUBLICATION_S = 0.01  # after an answer that came before the head was published


class HeadFollower:
    """`read` gives the published head; `ask` returns when the head of the writer is past a position."""

    def __init__(self, read: Callable[[], Head], ask: Callable[[int], Awaitable[None]]) -> None:
        self._read = read
        self._ask = ask
        self._notifier = HeadNotifier(read())
        self._task: asyncio.Task[None] | None = None  # while callers wait, and until the request is answered

    async def wait(self, position: int) -> Head:
        """The head, once it is past `position`. Raises LogUnavailable when the log closes first."""
        head = self._read()
        if head.position > position:
            return head
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow(), name="log-head")
        return await self._notifier.wait(position)

    async def close(self, reason: str) -> None:
        """Have all callers get a LogUnavailable with `reason`."""
        self._notifier.close(reason)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        while self._notifier.is_awaited:
            pause_s = 0.0
            try:
                before = self._read()
                if before.position > self._notifier.current.position:
                    self._notifier.advance(before)
                    await asyncio.sleep(0)  # callers that have what they wait for are gone then
                    continue
                await self._ask(before.position)
                if self._read().position == before.position:
                    pause_s = PUBLICATION_S
            except LogError:  # no writer, or too many requests wait: callers have no bound of time here
                pause_s = RETRY_S
            if pause_s:
                await asyncio.sleep(pause_s)
