"""Reads the log's next batch while the present one is being written: both take about as long."""

import asyncio

from msgspec import Struct

from events.log import EventLog
from events.record import RecordedEvent
from projections.checkpoint import digest_at


class Batch(Struct, frozen=True):
    """Consecutive events, and the log's digest at the last of them."""

    events: list[RecordedEvent]
    digest: bytes


class ReadAhead:
    """At most one batch ahead, and only while the batches are full: a follower at the head has nothing to gain."""

    def __init__(self, log: EventLog, batch_max: int) -> None:
        self._log = log
        self._batch_max = batch_max
        self._after = 0
        self._task: asyncio.Task[Batch] | None = None

    async def batch(self, after: int) -> Batch:
        """The events that follow position `after`, of which there must be one. Raises as EventLog.read_all."""
        if self._task is not None and self._after == after:
            task, self._task = self._task, None
            found = await task
        else:
            await self.drop()
            found = await self._read(after)
        if len(found.events) == self._batch_max:
            self._after = found.events[-1].position
            self._task = asyncio.create_task(self._read(self._after), name="projections-read-ahead")
        return found

    async def drop(self) -> None:
        """Forget what was read ahead."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _read(self, after: int) -> Batch:
        events = await self._log.read_all(after=after, limit=self._batch_max)
        digest = await digest_at(self._log, events[-1].position) if events else None
        return Batch(events, digest or b"")
