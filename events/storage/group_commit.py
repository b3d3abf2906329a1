"""Group commit: a bounded queue of appends, and one task that hands all that wait to the store as one batch.

Knows no database. The task owns the store's write side; nobody cancels it, so a transaction is never left half done.
Callers wait on futures: one that goes away changes nothing, its append is written all the same.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from events.errors import LogBusy, LogError, LogUnavailable, VersionConflict
from events.options import LogOptions
from events.record import RecordedEvent
from events.storage.append_batch import Outcome, PendingAppend
from events.storage.futures import resolve

Recorded = tuple[RecordedEvent, ...]

RETRY_S = 1.0  # after an unexpected failure while tidying


class LogObserver(Protocol):
    """Who counts what the log does. Called in the writer's task: must be quick."""

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None:
        """A batch is on disk. `append_s`: from the arrival of its oldest append; `commit_s`: in the store alone."""

    def refused(self, reason: str) -> None:
        """An append was refused: `busy`, `closing`, `conflict`, `outdated` or `unavailable`."""

    def failed(self, error: Exception) -> None:
        """Something happened in the writer that no store should let happen; a fault of ours."""

    def warned(self, subject: str, reason: str) -> None:
        """An operator should know, once for each reason. `erasure_waits`: erased content cannot leave the store's pages
        for now. `nodes_outdated`: events were refused, as another process over the log cannot read them.
        """

    def files_lost(self, reason: str) -> None:
        """A file of the log was deleted or replaced while it was open."""


class NoObserver:
    """Counts nothing."""

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None: ...

    def refused(self, reason: str) -> None: ...

    def failed(self, error: Exception) -> None: ...

    def warned(self, subject: str, reason: str) -> None: ...

    def files_lost(self, reason: str) -> None: ...


class BatchStore(Protocol):
    """What the writer needs of a store."""

    async def write(self, batch: Sequence[PendingAppend]) -> list[Outcome]:
        """Commit `batch` in one transaction and say, in order, what became of each append."""
        ...

    async def probe(self) -> None:
        """Commit nothing. Raises LogUnavailable where an append would be refused just now."""
        ...

    async def maintain(self) -> float | None:
        """Housekeeping between batches: the seconds until it wants to be called again, None for no earlier than
        the next batch.
        """
        ...


# An append in the queue: what is appended, who waits for it, and when it came (monotonic seconds).
QueuedAppend = tuple[PendingAppend, asyncio.Future[Recorded], float]


class GroupCommit:
    """The one task that writes. `failure` keeps the last exception that no store should raise; the batch that met
    it is refused with LogUnavailable, and the writer goes on with the next, which the store begins by looking
    again at what is on disk.
    """

    def __init__(self, store: BatchStore, options: LogOptions, observe: LogObserver) -> None:
        self.failure: BaseException | None = None
        self._store = store
        self._options = options
        self._observe = observe
        self._queue: deque[QueuedAppend] = deque()
        self._queued_bytes = 0
        self._queued_events = 0
        self._probe: asyncio.Future[None] | None = None  # shared by all who ask meanwhile
        self._arrival = asyncio.Event()
        self._closing = False
        self._last_batch_size = 0  # appends in the last batch
        self._expected_company = 0  # and in the one before it, too: a crowd that came once is not waited for
        self._wake_at = 1  # appends in the queue that wake the task
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="log-writer")

    @property
    def waiting(self) -> int:
        """Appends in the queue."""
        return len(self._queue)

    def submit(self, pending: PendingAppend) -> asyncio.Future[Recorded]:
        """Queue an append; the future tells what became of it. Raises LogBusy, LogUnavailable or ValueError."""
        if self._closing:
            raise self._refuse(LogUnavailable("the log is closing"), "closing")
        events = len(pending.contents)
        if events > self._options.append_batch_max:
            raise ValueError(f"an append may hold at most {self._options.append_batch_max} events")
        queued = len(self._queue)
        full = self._queued_bytes + pending.size > self._options.append_queue_bytes
        if queued >= self._options.append_queue_max or (queued and full):
            raise self._refuse(LogBusy(f"{queued} appends wait already"), "busy")
        future: asyncio.Future[Recorded] = self._loop.create_future()
        self._queue.append((pending, future, time.monotonic()))
        self._queued_bytes += pending.size
        self._queued_events += events
        if queued + 1 == self._wake_at or self._queued_events >= self._options.append_batch_max:
            self._arrival.set()
        return future

    async def probe(self) -> None:
        """Have the store commit nothing, behind the appends that wait. Raises LogUnavailable where that fails."""
        if self._closing:
            raise LogUnavailable("the log is closing")
        if self._probe is None:
            self._probe = self._loop.create_future()
            self._arrival.set()
        await asyncio.shield(self._probe)

    def wake(self) -> None:
        """Have the store tidy soon, though nothing is to be written."""
        self._arrival.set()

    def refuse(self) -> None:
        """From now on refuse what comes; the task ends when what waits is written."""
        self._closing = True
        self._arrival.set()

    async def close(self) -> None:
        """Refuse what comes, write what waits, and stop."""
        self.refuse()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause_s = await self._maintain()
        try:
            while self._queue or not self._closing:
                await self._wait_for_appends(pause_s)
                if self._queue:
                    await self._linger()
                    batch = self._take_batch()
                    await self._write(batch)
                    previous_batch_size, self._last_batch_size = self._last_batch_size, len(batch) + len(self._queue)
                    self._expected_company = min(previous_batch_size, self._last_batch_size)
                if self._probe is not None:
                    await self._answer_probe(self._probe)
                pause_s = await self._maintain()
        finally:  # reached with appends waiting only when the event loop itself is torn down
            self._closing = True
            if self._probe is not None:
                self._probe.cancel()
            for _, future, _ in self._queue:
                resolve(future, LogUnavailable("the log was stopped; nothing was recorded"))

    async def _wait_for_appends(self, timeout: float | None) -> None:
        if self._queue or self._closing or self._probe is not None:
            # Those whom the last batch has just woken may append again at once: let them join this one.
            await asyncio.sleep(0)
            return
        self._arrival.clear()
        with suppress(TimeoutError):
            # Whoever appends in the same turn of the loop as the first joins its batch.
            await (self._arrival.wait() if timeout is None else asyncio.wait_for(self._arrival.wait(), timeout))

    async def _linger(self) -> None:
        """Wait a moment for as many appends as the last batches had: who appends side by side shares a commit. Whoever
        appends alone waits for nobody, nor for those that have just come together once, as sessions that expire do."""
        is_full = self._queued_events >= self._options.append_batch_max
        if len(self._queue) < self._expected_company and not is_full and not self._closing:
            self._arrival.clear()
            self._wake_at = self._expected_company
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.append_gather_s):
                    await self._arrival.wait()
            self._wake_at = 1

    def _take_batch(self) -> list[QueuedAppend]:
        if self._queued_events <= self._options.append_batch_max:
            batch = list(self._queue)
            self._queue.clear()
            self._queued_bytes = self._queued_events = 0
            return batch
        batch, events = [], 0
        while events + len(self._queue[0][0].contents) <= self._options.append_batch_max:
            batch.append(self._queue.popleft())
            pending = batch[-1][0]
            events += len(pending.contents)
            self._queued_bytes -= pending.size
        self._queued_events -= events
        return batch

    async def _write(self, batch: list[QueuedAppend]) -> None:
        started_s = time.monotonic()
        try:
            outcomes = await self._store.write([pending for pending, _, _ in batch])
            events = 0
            for (_, future, _), outcome in zip(batch, outcomes, strict=True):
                resolve(future, outcome)
                if isinstance(outcome, tuple):
                    events += len(outcome)
            self._report_batch(batch, outcomes, events, started_s)
        except BaseException as error:
            self._fail_batch(batch, error)
            if not isinstance(error, Exception):  # the event loop is being torn down
                raise
            self._failed(error)  # one bad batch must not stop every session

    async def _answer_probe(self, probe: asyncio.Future[None]) -> None:
        outcome: Exception | None = None
        try:
            await self._store.probe()
        except LogUnavailable as error:
            outcome = error
        except Exception as error:  # noqa: BLE001  kept as `failure`
            self._failed(error)
            outcome = LogUnavailable(f"the log failed in an unexpected way ({error!r})")
        self._probe = None
        resolve(probe, outcome)
        if outcome is not None:
            probe.exception()  # seen, should everyone who asked have left

    async def _maintain(self) -> float | None:
        try:
            return await self._store.maintain()
        except Exception as error:  # noqa: BLE001  kept as `failure`
            self._failed(error)
            return RETRY_S

    def _failed(self, error: Exception) -> None:
        self.failure = error
        self._observe.failed(error)

    def _report_batch(
        self, batch: Sequence[QueuedAppend], outcomes: Sequence[Outcome], events: int, started_s: float
    ) -> None:
        now_s = time.monotonic()
        for outcome in outcomes:
            if not isinstance(outcome, tuple):
                self._observe.refused("conflict" if isinstance(outcome, VersionConflict) else "unavailable")
        if events:
            self._observe.appended(events, now_s - batch[0][2], now_s - started_s)

    def _fail_batch(self, batch: list[QueuedAppend], cause: BaseException) -> None:
        """Answer everyone in a batch of which nobody knows what became of it."""
        for _, future, _ in batch:
            refusal = LogUnavailable(f"the log failed in an unexpected way ({cause!r}): read the stream again")
            refusal.__cause__ = cause
            resolve(future, refusal)

    def _refuse(self, error: LogError, reason: str) -> LogError:
        self._observe.refused(reason)
        return error
