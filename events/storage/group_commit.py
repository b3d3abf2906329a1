"""Group commit, the write side that all stores share: a bounded queue of appends, one task that hands all that wait to
the store as one batch, and the committed head, which readers wait for. Other work on the store's write side is done by
the same task, a job at a time between two batches.

Knows no database. The task owns the store's write side and is never cancelled, so that no transaction is left half
done. Callers wait on futures: one that is cancelled changes nothing, its append is written all the same.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from events.errors import LogBusy, LogError, LogUnavailable, VersionConflict
from events.log_observer import LogObserver
from events.media import MediaMissing
from events.options import LogOptions
from events.record import Head, RecordedEvent
from events.storage.append_batch import Outcome, PendingAppend
from events.storage.media_upload import PIECES_MAX

Recorded = tuple[RecordedEvent, ...]
T = TypeVar("T")

_REASONS = {VersionConflict: "conflict", MediaMissing: "missing"}  # of refusals; `unavailable` otherwise
STALLED_S = 5.0  # of an append that waits, after which somebody should know
RETRY_S = 1.0  # pause after an unexpected failure of the store's maintenance


class BatchStore(Protocol):
    """The write side of one store."""

    async def write(self, batch: Sequence[PendingAppend]) -> list[Outcome]:
        """Commit `batch` in one transaction. Returns the outcome of each append, in order."""
        ...

    async def probe(self) -> None:
        """Commit nothing. Raises LogUnavailable where an append would be refused now."""
        ...

    async def maintain(self) -> float | None:
        """Maintenance between batches. Returns the seconds until it must run again, None for after the next batch."""
        ...


class Reply(Protocol):
    """Receives the outcome of one append: the part of a future that the writer needs."""

    def done(self) -> bool:
        """Whether the outcome is no longer wanted."""
        ...

    def set_result(self, recorded: Recorded, /) -> None: ...

    def set_exception(self, error: Exception, /) -> None: ...


# An append in the queue, what its caller waits for, and when it arrived (monotonic seconds).
QueuedAppend = tuple[PendingAppend, Reply, float]


class GroupCommit:
    """The one task that writes. `failure` keeps the last exception that no store should raise: its batch is refused
    with LogUnavailable, and the writer continues with the next one, before which the store reads again what is on disk.
    """

    def __init__(self, store: BatchStore, options: LogOptions, observe: LogObserver) -> None:
        self.failure: BaseException | None = None
        # Called with each batch that is on disk, before its callers have the outcomes; with an empty one after a
        # failure of which it is not known what is on disk.
        self.on_committed: Callable[[Sequence[QueuedAppend], Sequence[Outcome]], None] | None = None
        self.on_maintained: Callable[[], None] | None = None  # called after the store's maintenance
        self._store = store
        self._options = options
        self._observe = observe
        self._queue: deque[QueuedAppend] = deque()
        self._written: Sequence[QueuedAppend] = ()  # the batch that the store writes now
        self._queued_bytes = 0
        self._queued_events = 0
        self._jobs: deque[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._probe: asyncio.Future[None] | None = None  # shared by all callers that wait for it
        self._arrival = asyncio.Event()
        self._closing = False
        self._last_batch_size = 0  # appends in the last batch, and in the queue after it
        self._expected_appends = 0  # the lesser of the last two: one burst alone does not cause a wait
        self._wake_at = 1  # so many appends in the queue wake the task
        self._loop = asyncio.get_running_loop()
        self._stall_check: asyncio.TimerHandle | None = None  # while there is something to look at
        self._is_stalled = False
        self._task = self._loop.create_task(self._run(), name="log-writer")

    @property
    def waiting(self) -> int:
        """Appends in the queue."""
        return len(self._queue)

    @property
    def oldest_append_s(self) -> float:
        """How long the oldest append has waited that has no outcome; 0 if none waits."""
        oldest = self._written or self._queue
        return time.monotonic() - oldest[0][2] if oldest else 0.0

    def submit(self, pending: PendingAppend) -> asyncio.Future[Recorded]:
        """Queue an append; the future gets its outcome. Raises LogBusy, LogUnavailable or ValueError."""
        future: asyncio.Future[Recorded] = self._loop.create_future()
        self.submit_for(future, pending)
        return future

    def submit_for(self, reply: Reply, pending: PendingAppend, *, is_admitted: bool = False) -> None:
        """Queue an append; `reply` gets its outcome. Raises as `submit`, but no LogBusy for one that `is_admitted`
        already: the queue of its client bounds it.
        """
        if self._closing:
            raise self._refuse(LogUnavailable("the log is closing"), "closing")
        events = len(pending.contents)
        if events > self._options.append_batch_max:
            raise ValueError(f"an append may hold at most {self._options.append_batch_max} events")
        queued = len(self._queue)
        full = self._queued_bytes + pending.size > self._options.append_queue_bytes
        if not is_admitted and (queued >= self._options.append_queue_max or (queued and full)):
            raise self._refuse(LogBusy(f"{queued} appends wait already"), "busy")
        self._queue.append((pending, reply, time.monotonic()))
        self._queued_bytes += pending.size
        self._queued_events += events
        if self._stall_check is None:
            self._stall_check = self._loop.call_later(STALLED_S, self._look_for_stall)
        if queued + 1 == self._wake_at or self._queued_events >= self._options.append_batch_max:
            self._arrival.set()

    def _look_for_stall(self) -> None:
        """Whatever the task waits for: a thread whose fsync never returns tells nobody."""
        age_s = self.oldest_append_s
        is_stalled = age_s >= STALLED_S
        if is_stalled and not self._is_stalled:
            self._observe.stalled(age_s)
        self._is_stalled = is_stalled
        self._stall_check = None
        if age_s:
            next_s = STALLED_S if is_stalled else STALLED_S - age_s
            self._stall_check = self._loop.call_later(next_s, self._look_for_stall)

    async def probe(self) -> None:
        """Have the store commit nothing, after the appends that wait. Raises LogUnavailable where that fails."""
        if self._closing:
            raise LogUnavailable("the log is closing")
        if self._probe is None:
            self._probe = self._loop.create_future()
            self._arrival.set()
        await asyncio.shield(self._probe)

    def run(self, job: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Have `job` use the store's write side between two batches; the future gets its result, or what it raises.
        Raises LogBusy, LogUnavailable.
        """
        if self._closing:
            raise LogUnavailable("the log is closing")
        if len(self._jobs) >= PIECES_MAX:
            raise LogBusy(f"{PIECES_MAX} pieces of files wait already")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.append((job, future))
        self._arrival.set()
        return future

    def wake(self) -> None:
        """Have the store's maintenance run soon, though nothing is to be written."""
        self._arrival.set()

    def refuse(self) -> None:
        """From now on refuse appends; the task ends when those that wait are written."""
        self._closing = True
        self._arrival.set()

    async def close(self) -> None:
        """Refuse new appends, write those that wait, and stop."""
        self.refuse()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause_s = await self._maintain()
        try:
            while self._queue or self._jobs or not self._closing:
                await self._wait_for_appends(pause_s)
                if self._queue:
                    await self._wait_for_company()
                    batch = self._take_batch()
                    await self._write(batch)
                    previous_batch_size, self._last_batch_size = self._last_batch_size, len(batch) + len(self._queue)
                    self._expected_appends = min(previous_batch_size, self._last_batch_size)
                if self._probe is not None:
                    await self._answer_probe(self._probe)
                if self._jobs:
                    await self._run_job(*self._jobs.popleft())
                pause_s = await self._maintain()
        finally:  # reached with appends waiting only when the event loop itself is torn down
            self._closing = True
            if self._stall_check is not None:
                self._stall_check.cancel()
            if self._probe is not None:
                self._probe.cancel()
            for future in (*(future for _, future, _ in self._queue), *(future for _, future in self._jobs)):
                _resolve(future, LogUnavailable("the log was stopped; nothing was recorded"))

    async def _wait_for_appends(self, timeout: float | None) -> None:
        if self._queue or self._jobs or self._closing or self._probe is not None:
            # Callers that the last batch has just answered may append again at once: let them join this one.
            await asyncio.sleep(0)
            return
        self._arrival.clear()
        with suppress(TimeoutError):
            # Callers that append in the same iteration of the event loop as the first join its batch.
            await (self._arrival.wait() if timeout is None else asyncio.wait_for(self._arrival.wait(), timeout))

    async def _wait_for_company(self) -> None:
        """Wait for as many appends as each of the last two batches had, `commit_delay_s` at most: callers that append
        concurrently share a commit. A lone caller never waits, nor does one after a single burst (as of sessions that
        expire together).
        """
        is_full = self._queued_events >= self._options.append_batch_max
        if len(self._queue) < self._expected_appends and not is_full and not self._closing:
            self._arrival.clear()
            self._wake_at = self._expected_appends
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.commit_delay_s):
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
        self._written = batch
        try:
            outcomes = await self._store.write([pending for pending, _, _ in batch])
            if self.on_committed is not None:
                self.on_committed(batch, outcomes)
            events = 0
            for (_, future, _), outcome in zip(batch, outcomes, strict=True):
                _resolve(future, outcome)
                if isinstance(outcome, tuple):
                    events += len(outcome)
            self._report_batch(batch, outcomes, events, started_s)
        except BaseException as error:
            self._fail_batch(batch, error)
            if not isinstance(error, Exception):  # the event loop is being torn down
                raise
            self._failed(error)  # one bad batch must not stop every session
        finally:
            self._written = ()
            self._is_stalled = False  # the store has answered: if what waits is stalled, it is once more

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
        _resolve(probe, outcome)
        if outcome is not None:
            probe.exception()  # retrieved, though all callers may be gone

    async def _run_job(self, job: Callable[[], Awaitable[Any]], future: asyncio.Future[Any]) -> None:
        """Run also for a caller that is gone: what it has begun must be ended."""
        try:
            _resolve(future, await job())
        except Exception as error:  # noqa: BLE001  raised by the caller's await
            _resolve(future, error)

    async def _maintain(self) -> float | None:
        try:
            pause_s = await self._store.maintain()
        except Exception as error:  # noqa: BLE001  kept as `failure`
            self._failed(error)
            pause_s = RETRY_S
        if self.on_maintained is not None:
            self.on_maintained()
        return pause_s

    def _failed(self, error: Exception) -> None:
        self.failure = error
        self._observe.failed(error)

    def _report_batch(
        self, batch: Sequence[QueuedAppend], outcomes: Sequence[Outcome], events: int, started_s: float
    ) -> None:
        now_s = time.monotonic()
        for outcome in outcomes:
            if not isinstance(outcome, tuple):
                self._observe.refused(_REASONS.get(type(outcome), "unavailable"))
        if events:
            self._observe.appended(events, now_s - batch[0][2], now_s - started_s)

    def _fail_batch(self, batch: list[QueuedAppend], cause: BaseException) -> None:
        """Refuse every append of a batch whose outcome is unknown."""
        if self.on_committed is not None:
            with suppress(Exception):  # it may be the cause
                self.on_committed([], [])
        for _, future, _ in batch:
            refusal = LogUnavailable(f"the log failed in an unexpected way ({cause!r}): read the stream again")
            refusal.__cause__ = cause
            _resolve(future, refusal)

    def _refuse(self, error: LogError, reason: str) -> LogError:
        self._observe.refused(reason)
        return error


def _resolve(future: "Reply | asyncio.Future[Any]", outcome: Any) -> None:
    """Answer the caller of `future`, unless it was cancelled; an exception is raised there."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class HeadNotifier:
    """The last committed position and digest. Waiters wake at the commit, without polling."""

    def __init__(self, head: Head) -> None:
        self.current = head
        self.listeners: dict[Callable[[], None], int] = {}  # called after a commit beyond this position
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed: str | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits."""
        return bool(self._waiters)

    def advance(self, head: Head) -> None:
        """The store has committed up to `head`: call the listeners, and wake every waiter."""
        self.current = head
        for listener, position in self.listeners.items():
            if head.position > position:
                listener()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, position: int) -> Head:
        """The head, once it is past `position`. Raises LogUnavailable when the log closes first."""
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
        """Wake every waiter: no commit will follow. `wait` then raises LogUnavailable with `reason`."""
        self._closed = reason
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
