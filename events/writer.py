"""Group commit: a bounded queue of appends, and one task that hands all that wait to the store as one batch.

Knows no database. The task owns the store's write side; nobody cancels it, so a transaction is never left half done.
Callers wait on futures: one that goes away changes nothing, its append is written all the same.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from events.batch import Outcome, Pending
from events.errors import LogBusy, LogError, LogUnavailable, VersionConflict
from events.options import LogOptions
from events.record import RecordedEvent

Recorded = tuple[RecordedEvent, ...]

RETRY_S = 1.0  # after an unexpected failure while tidying


class LogObserver(Protocol):
    """Who counts what the log does. Called in the writer's task: must be quick."""

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None:
        """A batch is on disk. `append_s`: from the arrival of its oldest append; `commit_s`: in the store alone."""

    def refused(self, reason: str) -> None:
        """An append was refused: `busy`, `closing`, `conflict` or `unavailable`."""

    def failed(self, error: Exception) -> None:
        """Something happened in the writer that no store should let happen; a fault of ours."""


class NoObserver:
    """Counts nothing."""

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None: ...

    def refused(self, reason: str) -> None: ...

    def failed(self, error: Exception) -> None: ...


class BatchStore(Protocol):
    """What the writer needs of a store."""

    async def write(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Commit `batch` in one transaction and say, in order, what became of each append."""
        ...

    async def tidy(self) -> float | None:
        """Housekeeping between batches: the seconds until it wants to be called again, None for no earlier than
        the next batch.
        """
        ...


class _Waiting:
    """An append in the queue."""

    __slots__ = ("arrived_s", "future", "pending")

    def __init__(self, pending: Pending, future: asyncio.Future[Recorded]) -> None:
        self.pending = pending
        self.future = future
        self.arrived_s = time.monotonic()

    def settle(self, outcome: Outcome) -> None:
        if self.future.done():  # its caller was cancelled
            return
        if isinstance(outcome, LogError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class BatchWriter:
    """The one task that writes. `failure` keeps the last exception that no store should raise; the batch that met
    it is refused with LogUnavailable, and the writer goes on with the next, which the store begins by looking
    again at what is on disk.
    """

    def __init__(self, store: BatchStore, options: LogOptions, observe: LogObserver) -> None:
        self.failure: BaseException | None = None
        self._store = store
        self._options = options
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._arrival = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="log-writer")

    @property
    def waiting(self) -> int:
        """Appends in the queue."""
        return len(self._queue)

    def submit(self, pending: Pending) -> asyncio.Future[Recorded]:
        """Queue an append; the future tells what became of it. Raises LogBusy, LogUnavailable or ValueError."""
        if self._closing:
            raise self._refuse(LogUnavailable("the log is closing"), "closing")
        if len(pending.contents) > self._options.append_batch_max:
            raise ValueError(f"an append may hold at most {self._options.append_batch_max} events")
        queued = len(self._queue)
        full = self._queued_bytes + pending.size > self._options.append_queue_bytes
        if queued >= self._options.append_queue_max or (queued and full):
            raise self._refuse(LogBusy(f"{queued} appends wait already"), "busy")
        waiting = _Waiting(pending, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queued_bytes += pending.size
        self._arrival.set()
        return waiting.future

    def refuse(self) -> None:
        """From now on refuse what comes; the task ends when what waits is written."""
        self._closing = True
        self._arrival.set()

    async def close(self) -> None:
        """Refuse what comes, write what waits, and stop."""
        self.refuse()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause_s = await self._tidy()
        try:
            while self._queue or not self._closing:
                await self._arrivals(pause_s)
                batch = self._take()
                if batch:
                    await self._write(batch)
                pause_s = await self._tidy()
        finally:  # reached with appends waiting only when the event loop itself is torn down
            self._closing = True
            for waiting in self._queue:
                waiting.settle(LogUnavailable("the log was stopped; nothing was recorded"))

    async def _arrivals(self, timeout: float | None) -> None:
        if not self._queue and not self._closing:
            self._arrival.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrival.wait()
            except TimeoutError:
                return
        # Those whom the last batch has just woken may append again at once: let them join this one.
        await asyncio.sleep(0)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        events = 0
        while self._queue:
            events += len(self._queue[0].pending.contents)
            if batch and events > self._options.append_batch_max:
                break
            batch.append(self._queue.popleft())
            self._queued_bytes -= batch[-1].pending.size
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        started_s = time.monotonic()
        try:
            outcomes = await self._store.write([waiting.pending for waiting in batch])
            for waiting, outcome in zip(batch, outcomes, strict=True):
                waiting.settle(outcome)
            self._count(outcomes, batch[0].arrived_s, started_s)
        except BaseException as error:
            self._abandon(batch, error)
            if not isinstance(error, Exception):  # the event loop is being torn down
                raise
            self._failed(error)  # one bad batch must not stop every session

    async def _tidy(self) -> float | None:
        try:
            return await self._store.tidy()
        except Exception as error:  # noqa: BLE001  kept as `failure`
            self._failed(error)
            return RETRY_S

    def _failed(self, error: Exception) -> None:
        self.failure = error
        self._observe.failed(error)

    def _count(self, outcomes: Sequence[Outcome], arrived_s: float, started_s: float) -> None:
        now_s = time.monotonic()
        events = 0
        for outcome in outcomes:
            if isinstance(outcome, VersionConflict):
                self._observe.refused("conflict")
            elif isinstance(outcome, LogError):
                self._observe.refused("unavailable")
            else:
                events += len(outcome)
        if events:
            self._observe.appended(events, now_s - arrived_s, now_s - started_s)

    def _abandon(self, batch: list[_Waiting], cause: BaseException) -> None:
        """Answer everyone in a batch of which nobody knows what became of it."""
        for waiting in batch:
            refusal = LogUnavailable(f"the log failed in an unexpected way ({cause!r}): read the stream again")
            refusal.__cause__ = cause
            waiting.settle(refusal)

    def _refuse(self, error: LogError, reason: str) -> LogError:
        self._observe.refused(reason)
        return error
