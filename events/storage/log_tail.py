"""Subscriptions for a store that tells only of the log's end: reads the headers of the whole log if anybody listens."""

import asyncio
from collections.abc import Sequence

from events.errors import LogError, LogUnavailable
from events.log import AppendListener, EventLog
from events.record import EventHeader
from events.subscriptions import AppendListeners, is_told_to_all

PAGE = 1_000  # headers read at once
READ_INTERVAL_S = 0.003  # between two reads: no delay after a pause, and under load many commits in one read
RETRY_S = 0.5  # after the log could not be read


class LogTail:
    """Implements the subscriptions of `log`, which is open. Must be closed."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._listeners = AppendListeners()
        self._held: set[str] = set()
        self._new: set[str] = set()  # held, and not yet reported as such
        self._hold_added = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def hold(self, stream_id: str) -> None:
        """As EventLog.hold."""
        self._held.add(stream_id)
        self._new.add(stream_id)
        self._hold_added.set()

    def release(self, stream_id: str) -> None:
        """As EventLog.release."""
        self._held.discard(stream_id)
        self._new.discard(stream_id)

    def listen(self, listener: AppendListener) -> None:
        """As EventLog.listen."""
        self._listeners.add(listener)
        if not self._tasks:
            after = self._log.head().position
            runs = {"log-tail": self._follow(after), "log-holds": self._report_holds()}
            self._tasks = [asyncio.create_task(run, name=name) for name, run in runs.items()]

    async def close(self) -> None:
        """Report nothing more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _follow(self, position: int) -> None:
        while True:
            try:
                await self._log.wait(position)
                page = await self._log.event_headers(after=position, limit=PAGE)
                if not page:
                    raise LogUnavailable("the log announced events that it does not have")
                position = page[-1].position
                self._report(page)
                await asyncio.sleep(READ_INTERVAL_S)
            except LogError:  # the callers of the log get the error
                await asyncio.sleep(RETRY_S)

    def _report(self, page: Sequence[EventHeader]) -> None:
        wanted = [one for one in page if one.stream_id in self._held or is_told_to_all(one.stream_id, one.type)]
        if wanted:
            self._listeners.on_appended(wanted)

    async def _report_holds(self) -> None:
        """A stream is among the held ones before its version is read: what is appended afterwards is reported."""
        while True:
            await self._hold_added.wait()
            self._hold_added.clear()
            try:
                while self._new:
                    stream_id = next(iter(self._new))
                    newest = await self._log.read(stream_id, limit=1, backwards=True)
                    if stream_id in self._new:
                        self._new.discard(stream_id)
                        self._listeners.on_held(stream_id, newest[0].version if newest else 0)
            except LogError:
                self._hold_added.set()
                await asyncio.sleep(RETRY_S)
