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
from events.log import NotifyingLog
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
from projections.progress import Progress, Sleeper
from projections.runner_state import ENDED, State, transition

SERVING_BATCH_MAX = 200  # events in a batch of a rebuild while clients are served: decoded in a millisecond or two
COLLECTED_MAX = 300  # events that are worth a batch: a busy process appends as many in 50 ms
LISTS_DELAY_S = 0.05  # how long events are collected at most while somebody follows lists of sessions
LISTS_POLL_MAX_S = 0.1  # the longest pause between looks at a log that others write meanwhile
POLL_MIN_S = 0.01  # the first such pause, where nothing is collected: it is doubled each time
SUBPROCESS_EVENTS_MIN = 10_000  # smaller logs are folded before a child process would have started


class RunnerOptions(Struct, frozen=True, kw_only=True):
    """How the projections follow the log. Durations are seconds."""

    batch_max: int = 2_000  # events in a transaction: with more a rebuild is hardly faster, and readers wait longer
    delay_s: float = 0.2  # how long events are collected into a batch while no reader waits for them
    wait_s: float = 5.0  # how long a read waits for the projections before ProjectionLag
    retry_first_s: float = 0.1  # the pause after a transient error, doubled each time
    retry_max_s: float = 5.0
    file_check_s: float = 1.0  # how often to check, while events arrive, that the store is still in place
    rebuilds_max: int = 3  # in a row without reaching the head: then the fault is in this program
    log_location: Path | str | None = None  # path or URL, as for open_log: lets a child process rebuild
    is_serving: bool = False  # clients have been served before this start: a rebuild leaves time for them
    poll_max_s: float | None = None  # the longest pause between looks at a log that others write


class ProjectionRunner:
    """Keeps `store` in step with `log`. Implements `port.ProjectionStatus`.

    `queries` answers from what is folded so far. `failure` is what stopped the runner for good, None while it works;
    `trouble` is the transient error of the last step, such as a full disk, None if it succeeded. `rebuild` folds the
    whole log in a child process and makes the result ready for `store.adopt`; None: this process always folds itself.
    """

    def __init__(
        self,
        store: ProjectionStore,
        log: NotifyingLog,
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
        self._sleeper = Sleeper()  # notified of commits, and of what the next two say
        self._is_flush_requested = False  # fold now what the log has
        self._is_retry_requested = False
        self._task: asyncio.Task[None] | None = None
        self._interruptible: asyncio.Future[object] | None = None  # what `stop` cancels
        self._has_list_readers = False
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
            self._is_flush_requested = True
            self._sleeper.notify()
        await self._progress.wait_for(position, self._options.wait_s if timeout_s is None else timeout_s)

    def retry(self) -> None:
        """As Projections.retry."""
        self._is_retry_requested = self._is_flush_requested = True
        self._sleeper.notify()

    def on_changed(self, listener: OnChanged) -> None:
        """As Projections.on_changed."""
        self._listeners.append(listener)

    def set_list_readers(self, *, has_readers: bool) -> None:
        """As Projections.set_list_readers: the process that folds calls its listeners in any case, but sooner then."""
        self._has_list_readers = has_readers

    async def stop(self) -> None:
        """Finish the batch at hand, release all waiters, close the store."""
        self._enter(State.STOPPED)
        self.retry()
        if self._interruptible is not None:
            self._interruptible.cancel()
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
        try:
            await self._run_until_stop(self._rebuild())
        except Exception as error:  # noqa: BLE001  of whatever kind: reported
            self._observer.failed(error)
        self._store_checked_at_s = float("-inf")
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
        await self._collect_events(position)
        self._is_flush_requested = False  # what was asked for until now is in the batch
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

    async def _collect_events(self, position: int) -> None:
        """Wait until there are events for a batch, for `_delay_s` at most, or until a reader waits for them.

        A transaction, two hops between threads and the checkpoint cost as much for one event as for a hundred, and
        hardly any event is queried before it is folded anyway.
        """
        if not self._progress.waiting:
            last = position + min(COLLECTED_MAX, self._options.batch_max) - 1
            await self._wait_until_past(last, self._delay_s, or_until=lambda: self._is_flush_requested)

    @property
    def _delay_s(self) -> float:
        return min(self._options.delay_s, LISTS_DELAY_S) if self._has_list_readers else self._options.delay_s

    async def _wait_for_events(self, position: int) -> None:
        """Return when the log is past `position`, a purge is due, or `retry` or `stop` was called."""
        if self._options.poll_max_s is None:
            await self._wait_until_past(position, self._purge.wait_s, or_until=self._is_interrupted)
        else:
            await self._poll_for_events(position, self._options.poll_max_s)
        self._is_retry_requested = False

    async def _poll_for_events(self, position: int, pause_max_s: float) -> None:
        """As `_wait_for_events`. A log that others write is looked at when a reader waits, or else more and more
        rarely.
        """
        purge_s, pause_s = self._purge.wait_s, max(self._delay_s, POLL_MIN_S)
        end_s = float("inf") if purge_s is None else time.monotonic() + purge_s
        while True:
            await self._wait_until_past(
                position,
                min(pause_s, end_s - time.monotonic()),
                or_until=lambda: self._is_flush_requested or self._is_interrupted(),
            )
            if self._log.head().position > position or self._is_interrupted() or time.monotonic() >= end_s:
                return
            self._is_flush_requested = False
            await self._run_until_stop(self._log.latest())
            pause_s = min(2 * pause_s, LISTS_POLL_MAX_S if self._has_list_readers else pause_max_s)

    async def _wait_until_past(self, position: int, seconds: float | None, or_until: Callable[[], bool]) -> None:
        """Return when the log is past `position`, as far as this process knows, after `seconds`, or on `or_until`."""
        self._log.watch_head(position, self._sleeper.notify)
        try:
            await self._sleeper.sleep(seconds, until=lambda: self._log.head().position > position or or_until())
        finally:
            self._log.unwatch_head(self._sleeper.notify)

    async def _run_until_stop(self, work: Awaitable[object]) -> None:
        """Wait for `work`, which `stop` cancels. Raises what it raises."""
        self._interruptible = asyncio.ensure_future(work)
        await asyncio.wait({self._interruptible})
        if not self._interruptible.cancelled():
            self._interruptible.result()

    async def _pause(self, seconds: float) -> None:
        """Ended by `retry` and `stop`."""
        await self._sleeper.sleep(seconds, until=self._is_interrupted)
        self._is_retry_requested = False

    def _is_interrupted(self) -> bool:
        return self._is_retry_requested or self._state is State.STOPPED


def _ignore() -> None:
    """Nothing else is interested."""
