"""The projection runner: a subscription of the read models to the log, with catch-up and rebuild.

One task follows the log and writes batches to a `ProjectionStore`. It is an explicit state machine (`runner_state.py`):
every change of state goes through `_enter`, and `_step` does the work of the present state.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from events.backoff import backoff_delays
from events.errors import LogUnavailable, UnknownEvent
from events.log import EventLog
from projections.checkpoint import checkpoint_at
from projections.erased_hash_purge import ErasedHashPurge
from projections.errors import (
    InvalidProjection,
    InvalidRebuild,
    ProjectionsStopped,
    ProjectionsUnavailable,
)
from projections.observer import NoObserver, ProjectionObserver
from projections.port import OnChanged, ProjectionStore
from projections.progress import Progress
from projections.runner_state import ENDED, State, transition

SERVING_BATCH_MAX = 200  # events in a batch of a rebuild while clients are served: decoded in a millisecond or two
SUBPROCESS_EVENTS_MIN = 10_000  # smaller logs are folded before a child process would have started


class RunnerOptions(Struct, frozen=True, kw_only=True):
    """How the projections follow the log. Durations are seconds."""

    batch_max: int = 2_000  # events in a transaction: with more a rebuild is hardly faster, and readers wait longer
    delay_s: float = 0.05  # how long events are collected into a batch while no reader waits for them
    wait_s: float = 5.0  # how long a read waits for the projections before ProjectionLag
    retry_first_s: float = 0.1  # the pause after a transient error, doubled each time
    retry_max_s: float = 5.0
    file_check_s: float = 1.0  # how often to check, while events arrive, that the store is still in place
    rebuilds_max: int = 3  # in a row without reaching the head: then the fault is in this program
    log_location: Path | str | None = None  # path or URL, as for open_log: lets a child process rebuild
    is_serving: bool = False  # clients have been served before this start: a rebuild leaves time for them
    poll_max_s: Callable[[], float] | None = None  # the longest pause between looks at a log that others write


class ProjectionRunner:
    """Keeps `store` in step with `log`. Implements `port.ProjectionStatus`.

    `queries` answers from what is folded so far. `failure` is what stopped the runner for good, None while it works;
    `trouble` is the transient error of the last step, such as a full disk, None if it succeeded. `rebuild` folds the
    whole log in a child process and makes the result ready for `store.adopt`; None: this process always folds itself.
    """

    def __init__(
        self,
        store: ProjectionStore,
        log: EventLog,
        observer: ProjectionObserver | None = None,
        options: RunnerOptions | None = None,
        rebuild: Callable[[], Awaitable[None]] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`progress` has waiters that outlive this runner."""
        self.queries = store.queries
        self.failure: BaseException | None = None
        self.trouble: Exception | None = None
        self._store = store
        self._log = log
        self._observer = observer or NoObserver()
        self._options = options or RunnerOptions()
        self._rebuild = rebuild
        self._progress = progress or Progress()
        self._purge = ErasedHashPurge(store, self._observer)
        self._state = State.OPENING
        self._replace_reason = ""  # of REPLACING
        self._target = 0  # the head when the store was opened or replaced
        self._rebuilds = 0  # since the projections were last current
        self._is_serving = self._options.is_serving  # and once it has been current: clients are served
        self._store_checked_at_s = float("-inf")
        self._wake = asyncio.Event()
        self._flush_now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rebuild_task: asyncio.Future[None] | None = None
        self._listeners: list[OnChanged] = []
        self.on_status: Callable[[], None] = _ignore  # called when position, rebuilding, failure or trouble change
        store.on_trouble = self.on_trouble

    @property
    def position(self) -> int:
        """As Projections.position."""
        return self._progress.position

    @property
    def lag(self) -> int:
        """As ProjectionStatus.lag."""
        return max(0, self._log.head().position - self.position)

    @property
    def rebuilding(self) -> bool:
        """As Projections.rebuilding; also while the store of an empty log is replaced."""
        return self._state is State.REPLACING or self.position < self._target

    @property
    def unknown_event(self) -> UnknownEvent | None:
        """As ProjectionStatus.unknown_event."""
        return self.failure if isinstance(self.failure, UnknownEvent) else None

    async def start(self) -> None:
        """Open the store and begin to follow the log; returns before it has caught up.

        Raises LogReplaced, ProjectionsInUse, ProjectionsUnusable.
        """
        try:
            reason = await self._store.open(self._log)
        except BaseException:
            await self._store.close()
            raise
        if reason is not None:
            self._replace(reason)
        elif self._state is State.OPENING:  # no query has found it damaged meanwhile
            self._target = self._log.head().position
            self._progress.reach(self._store.checkpoint.position)
            self._enter(State.CATCHING_UP)
        self._task = asyncio.create_task(self._run(), name="projections")

    async def wait_for(self, position: int, *, timeout_s: float | None = None) -> None:
        """As Projections.wait_for."""
        if position > self.position:
            self._flush_now.set()
        await self._progress.wait_for(position, self._options.wait_s if timeout_s is None else timeout_s)

    def retry(self) -> None:
        """As Projections.retry."""
        self._wake.set()
        self._flush_now.set()

    def on_changed(self, listener: OnChanged) -> None:
        """As Projections.on_changed."""
        self._listeners.append(listener)

    def set_list_readers(self, *, has_readers: bool) -> None:
        """As Projections.set_list_readers: the process that folds calls its listeners in any case."""

    async def stop(self) -> None:
        """Finish the batch at hand, release all waiters, close the store."""
        self._enter(State.STOPPED)
        self.retry()
        if self._rebuild_task is not None:
            self._rebuild_task.cancel()
        if self._task is not None:
            await self._task
            if not self.rebuilding or self._store.purges_while_folding:
                with suppress(InvalidProjection):  # the next start replaces the store
                    await self._purge.stop()
        self._progress.stop(self.failure or ProjectionsStopped("the service is stopping"))
        await self._store.close()

    def _enter(self, state: State) -> None:
        self._state = transition(self._state, state)
        if self._state is State.CURRENT:
            self._is_serving, self._rebuilds = True, 0
        self.on_status()

    def _replace(self, reason: str) -> None:
        """Have the store replaced in the next step. Its content no longer counts as folded."""
        if self._state in (State.REPLACING, *ENDED):
            return
        self._enter(State.REPLACING)
        self._replace_reason = reason
        self._target = self._log.head().position
        self._progress.reach(0)
        self.on_status()

    def on_trouble(self, reason: str | None) -> None:
        """A query found the store damaged (`reason`) or could not read it (None)."""
        if reason is not None:
            self._replace(reason)
        self._store_checked_at_s = float("-inf")
        self.retry()

    async def _run(self) -> None:
        delays = self._retry_delays()
        while self._state not in ENDED:
            try:
                await self._step()
                if self.trouble is not None:
                    delays, self.trouble = self._retry_delays(), None
                    self.on_status()
            except InvalidProjection as error:
                self._replace(str(error))
            except (ProjectionsUnavailable, LogUnavailable) as error:
                self.trouble = error
                self.on_status()
                self._observer.failed(error)
                await self._pause(next(delays))
            except Exception as error:  # noqa: BLE001  an unknown event or a defect: stop, and report it
                self.failure = error
                self._enter(State.FAILED)
                self._observer.failed(error)
                self._progress.stop(error)

    def _retry_delays(self) -> Iterator[float]:
        return backoff_delays(self._options.retry_first_s, self._options.retry_max_s)

    async def _step(self) -> None:
        match self._state:
            case State.REPLACING:
                await self._replace_store()
            case State.REBUILDING_IN_SUBPROCESS:
                await self._rebuild_in_subprocess()
            case State.CATCHING_UP:
                await self._check_store()
                if self._state is State.CATCHING_UP:  # neither stopped nor found damaged meanwhile
                    await self._catch_up()
            case State.CURRENT:
                await self._check_store()
                await self._purge.run_if_due()
                if self._state is State.CURRENT:  # as above
                    await self._follow()
            case State.OPENING | State.FAILED | State.STOPPED:
                raise RuntimeError(f"the projection runner has nothing to do: it is {self._state.value}")

    async def _replace_store(self) -> None:
        if self._rebuilds >= self._options.rebuilds_max:
            raise RuntimeError(f"rebuilt {self._options.rebuilds_max} times in vain: {self._replace_reason}")
        self._observer.rebuilt(self._replace_reason)
        await self._store.replace()
        self._rebuilds += 1  # not for an attempt that failed
        needs_subprocess = self._is_serving and self._target >= SUBPROCESS_EVENTS_MIN and self._rebuild is not None
        self._enter(State.REBUILDING_IN_SUBPROCESS if needs_subprocess else State.CATCHING_UP)

    async def _rebuild_in_subprocess(self) -> None:
        """Wait for the child process, whose result `_check_store` adopts. If it fails, this process folds the log."""
        if self._rebuild is None:
            raise RuntimeError("there is no child process to rebuild in")
        self._rebuild_task = asyncio.ensure_future(self._rebuild())
        await asyncio.wait({self._rebuild_task})
        if not self._rebuild_task.cancelled() and (error := self._rebuild_task.exception()) is not None:
            self._observer.failed(error)
        self._rebuild_task, self._store_checked_at_s = None, float("-inf")
        if self._state is State.REBUILDING_IN_SUBPROCESS:  # not if a query found the store damaged meanwhile
            self._enter(State.CATCHING_UP)

    async def _check_store(self) -> None:
        """Every `file_check_s`: adopt a finished rebuild, if there is one, and check that the store is in place."""
        now_s = time.monotonic()
        if now_s - self._store_checked_at_s < self._options.file_check_s:
            return
        self._store_checked_at_s = now_s
        try:
            if await self._store.adopt(self._log, self._options.batch_max):
                self._reach_checkpoint(None)
                self._observer.adopted(self.position)
        except InvalidRebuild as error:
            self._observer.failed(error)
        if not await self._store.is_in_place():
            raise InvalidProjection("it was deleted or replaced while in use")

    async def _catch_up(self) -> None:
        """Fold a batch, in small steps if clients are served meanwhile."""
        if self.rebuilding:
            began_s = time.perf_counter()
            limit = min(SERVING_BATCH_MAX, self._options.batch_max) if self._is_serving else self._options.batch_max
            await self._apply_batch(limit)
            self._observer.progress(self.position, self._log.head().position)
            if self._is_serving:
                await self._pause(time.perf_counter() - began_s)  # leaves half of the time to the clients
        if self._state is State.CATCHING_UP and not self.rebuilding:
            self._enter(State.CURRENT)

    async def _follow(self) -> None:
        """Fold the next batch, or wait for events."""
        position = self._store.checkpoint.position
        if self._log.head().position <= position:
            await self._wait_for_events(position)
            return
        await self._linger(position)
        self._flush_now.clear()  # what was asked for until now is in the batch
        if self._state is State.CURRENT:
            await self._apply_batch(self._options.batch_max)

    async def _apply_batch(self, limit: int) -> None:
        # Not read ahead while the last batch is written: two threads contend for Python's lock; it took a third longer.
        folded = self._store.checkpoint
        batch = await self._log.read_all(after=folded.position, limit=limit)
        checkpoint = await checkpoint_at(self._log, batch[-1].position, folded.identity)
        began_s = time.perf_counter()
        owners = await self._store.apply(batch, checkpoint)
        seconds = time.perf_counter() - began_s
        self._reach_checkpoint(owners)
        self._observer.applied(len(batch), seconds)

    def _reach_checkpoint(self, owners: frozenset[str] | None) -> None:
        """`owners` as for OnChanged."""
        if self._state is State.REPLACING:  # what a damaged store has folded does not count
            return
        position = self._store.checkpoint.position
        self._progress.reach(position)
        self.on_status()
        if owners is None or owners:
            for listener in self._listeners:
                listener(owners, position)

    async def _linger(self, position: int) -> None:
        """Collect events for a batch, unless a reader waits for them, the batch is full, or `_flush_now` is set.

        A transaction, two hops between threads and the checkpoint cost as much for one event as for a hundred, and
        hardly any event is queried before it is folded anyway.
        """
        if self._progress.waiting or self._log.head().position - position >= self._options.batch_max:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.delay_s):
                await self._flush_now.wait()

    async def _wait_for_events(self, position: int) -> None:
        """Return when the log is past `position`, a purge is due, or `retry` or `stop` was called."""
        appended = asyncio.create_task(self._wait_for_append(position), name="projections-appended")
        wake = asyncio.create_task(self._wait_for_wake(), name="projections-wake")
        try:
            await asyncio.wait({appended, wake}, return_when=asyncio.FIRST_COMPLETED, timeout=self._purge.wait_s)
            if appended.done():
                appended.result()
        finally:
            appended.cancel()
            wake.cancel()
            await asyncio.gather(appended, wake, return_exceptions=True)

    async def _wait_for_append(self, position: int) -> None:
        """Return when the log is past `position`. A log that others write is looked at, more and more rarely."""
        if self._options.poll_max_s is None:
            await self._log.wait(position)
            return
        pause_s = self._options.delay_s
        while True:
            await self._pause_for_append(position, pause_s)
            if self._log.head().position > position or (await self._log.latest()).position > position:
                return
            pause_s = min(2 * pause_s, self._options.poll_max_s())

    async def _pause_for_append(self, position: int, pause_s: float) -> None:
        """Return after `pause_s`, when a reader waits, or soon after this process has appended."""
        end_s = time.monotonic() + pause_s
        while time.monotonic() < end_s and self._log.head().position <= position and not self._flush_now.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.delay_s):
                    await self._flush_now.wait()
        self._flush_now.clear()

    async def _wait_for_wake(self) -> None:
        await self._wake.wait()
        if self._state is not State.STOPPED:
            self._wake.clear()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait_for_wake()


def _ignore() -> None:
    """Nothing else is interested."""
