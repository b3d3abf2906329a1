"""Follows the log and keeps projections.db in step with it, whatever happens to that file."""

import asyncio
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from events.errors import LogUnavailable, UnknownEvent
from events.log import EventLog
from projections.checkpoint import checkpoint_at
from projections.errors import InvalidProjection, InvalidRebuild, ProjectionsStopped
from projections.progress import NoObserver, Progress, ProjectionObserver
from projections.sqlite.projection_file import ProjectionFile
from projections.sqlite.queries import ProjectionQueries
from projections.sqlite.read_connection import ReadConnection
from projections.sqlite.rebuild_process import rebuild_in_subprocess

SERVING_BATCH_MAX = 200  # events in a batch of a rebuild while clients are served: decoded in a millisecond or two
PURGE_INTERVAL_S, PURGE_REST_RATIO = (
    5.0,
    50.0,
)  # seconds between two removals of erased hashes, and for each second that one took
PURGE_RETRY_S = 60.0  # after one that could not be done
SUBPROCESS_EVENTS_MIN = 10_000  # events in a log that is worth a process: fewer are folded before it has started


class RunnerOptions(Struct, frozen=True, kw_only=True):
    """How the projections follow the log. Durations are seconds."""

    batch_max: int = 2_000  # events in one transaction: beyond it a rebuild is hardly faster, and readers wait longer
    delay_s: float = 0.05  # how long events may gather before they are folded, while nobody waits for them
    wait_s: float = 5.0  # how long a read waits for the projections before ProjectionLag
    retry_first_s: float = 0.1  # the pause after a failure that may pass, doubled each time
    retry_max_s: float = 5.0
    file_check_s: float = 1.0  # how often, while events come, to look whether the path still leads to the open file
    rebuilds_max: int = 3  # in a row, without reaching the head: then it is this program that is wrong
    place: Path | str | None = None  # of the log, as for open_log: a process folds it while clients are served


class ProjectionRunner:
    """Owns projections.db: one task follows the log, one thread writes, one connection reads.

    `queries` answers from what is folded so far. `failure` is what stopped the runner for good, None while it works;
    `trouble` is what its last step met that may pass, such as a full disk, None where it went well.
    """

    def __init__(
        self,
        path: str | Path,
        log: EventLog,
        observer: ProjectionObserver | None = None,
        options: RunnerOptions | None = None,
    ) -> None:
        self._log = log
        self._observer = observer or NoObserver()
        self._options = options or RunnerOptions()
        self._progress = Progress()
        reader = ReadConnection(Path(path), self._on_trouble)
        self.queries = ProjectionQueries(reader)
        self.failure: BaseException | None = None
        self.trouble: Exception | None = None
        self._path = Path(path)
        self._projection_file = ProjectionFile(self._path, reader)
        self._replace_reason: str | None = None
        self._rebuilds = 0
        self._has_caught_up = False  # once since the start: from then on clients are served
        self._rebuild_target = 0  # the head when the file was opened or replaced: short of it, the answers are old
        self._file_checked_at_s = self._purge_at_s = float("-inf")
        self._wake = asyncio.Event()
        self._flush_now = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._rebuild_task: asyncio.Task[None] | None = None

    @property
    def position(self) -> int:
        """The log position up to which the projections are folded."""
        return self._progress.position

    @property
    def lag(self) -> int:
        """Events in the log that are not folded yet."""
        return max(0, self._log.head().position - self.position)

    @property
    def rebuilding(self) -> bool:
        """Whether the projections are still behind the head as it was when their file was opened or replaced."""
        return self._replace_reason is not None or self.position < self._rebuild_target

    @property
    def unknown_event(self) -> UnknownEvent | None:
        """What stopped the runner, where that is an event of a newer program: this one must be updated."""
        return self.failure if isinstance(self.failure, UnknownEvent) else None

    async def start(self) -> None:
        """Open the file and begin to follow; returns before it has caught up.

        Raises ProjectionsInUse when another process has the path, ProjectionsUnusable when it cannot serve.
        """
        try:
            self._replace_reason = await self._projection_file.open(self._log)
        except BaseException:
            await self._projection_file.close()
            raise
        self._rebuild_target = self._log.head().position
        if self._replace_reason is None:
            self._progress.reach(self._projection_file.checkpoint.position)
        self._task = asyncio.create_task(self._run(), name="projections")

    async def wait_for(self, position: int, *, timeout_s: float | None = None) -> None:
        """Return once everything up to `position` is folded, so that queries show it.

        Raises ProjectionLag after `timeout_s` (absent: `wait_s`), ProjectionsStopped when it never will be.
        """
        if position > self.position:
            self._flush_now.set()
        await self._progress.wait_for(position, self._options.wait_s if timeout_s is None else timeout_s)

    def retry(self) -> None:
        """What made the last attempt fail may be over: a full disk has room again."""
        self._wake.set()
        self._flush_now.set()

    async def stop(self) -> None:
        """Finish the batch at hand, tell everyone who waits, release the file."""
        self._stopping = True
        self._wake.set()
        self._flush_now.set()
        if self._rebuild_task is not None:
            self._rebuild_task.cancel()
        if self._task is not None:
            await self._task
            self._purge_at_s = float("-inf")
            with suppress(sqlite3.Error):  # the next start does it
                await self._purge_erased_hashes()
        self._progress.stop(self.failure or ProjectionsStopped("the service is stopping"))
        await self._projection_file.close()

    def _on_trouble(self, reason: str | None) -> None:
        """The reader found the file damaged or, without a reason, could not read it."""
        self._replace_reason = self._replace_reason or reason
        self._file_checked_at_s = float("-inf")
        self._wake.set()
        self._flush_now.set()

    async def _run(self) -> None:
        pause_s = self._options.retry_first_s
        while not self._stopping:
            try:
                await self._step()
                pause_s, self.trouble = self._options.retry_first_s, None
            except InvalidProjection as error:
                self._replace_reason = str(error)
            except (sqlite3.OperationalError, OSError, LogUnavailable) as error:
                self.trouble = error
                self._observer.failed(error)
                await self._pause(pause_s)
                pause_s = min(2 * pause_s, self._options.retry_max_s)
            except Exception as error:  # noqa: BLE001  an unknown event or a mistake of ours: stop, but say so
                self._fail(error)
                return

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self._observer.failed(error)
        self._progress.stop(error)

    async def _step(self) -> None:
        """Replace the file, or fold the next batch, or wait for one."""
        if self._replace_reason is not None:
            await self._rebuild(self._replace_reason)
        await self._check_file()
        await self._purge_erased_hashes()
        position = self._projection_file.checkpoint.position
        if self._log.head().position <= position:
            self._rebuilds = 0
            self._has_caught_up = True
            await self._wait_for_events(position)
            return
        if await self._linger(position):
            return
        # Not read ahead while the last batch is written: two threads of Python take turns, and it took a third longer.
        is_beside_clients = self.rebuilding and self._has_caught_up
        limit = self._options.batch_max if not is_beside_clients else min(SERVING_BATCH_MAX, self._options.batch_max)
        read_s = time.perf_counter()
        batch = await self._log.read_all(after=position, limit=limit)
        checkpoint = await checkpoint_at(self._log, batch[-1].position, self._projection_file.checkpoint.identity)
        began_s = time.perf_counter()
        await self._projection_file.apply(batch, checkpoint)
        self._record_applied(len(batch), time.perf_counter() - began_s)
        if is_beside_clients:
            await self._pause(time.perf_counter() - read_s)  # half of the time is theirs

    def _record_applied(self, events: int, seconds: float) -> None:
        behind = self.rebuilding
        self._progress.reach(self._projection_file.checkpoint.position)
        self._observer.applied(events, seconds)
        if not self.rebuilding:
            self._has_caught_up, self._rebuilds = True, 0
        if behind:
            self._observer.progress(self.position, self._log.head().position)

    async def _rebuild(self, reason: str) -> None:
        self._rebuilds += 1
        if self._rebuilds > self._options.rebuilds_max:
            raise RuntimeError(f"rebuilt {self._options.rebuilds_max} times in vain: {reason}")
        self._observer.rebuilt(reason)
        self._progress.reach(0)
        self._rebuild_target = self._log.head().position
        await self._projection_file.replace()
        self._replace_reason = None
        if self._has_caught_up and self._rebuild_target >= SUBPROCESS_EVENTS_MIN:
            await self._rebuild_in_subprocess()

    async def _rebuild_in_subprocess(self) -> None:
        """Let a process make the file, for `_look` to adopt. If it cannot, the thread folds the log as at the start."""
        if self._options.place is None or self._stopping:
            return
        folding = rebuild_in_subprocess(self._options.place, self._path, self._options.batch_max)
        self._rebuild_task = asyncio.create_task(folding, name="projections-beside")
        await asyncio.wait({self._rebuild_task})
        if not self._rebuild_task.cancelled() and (error := self._rebuild_task.exception()) is not None:
            self._observer.failed(error)
        self._rebuild_task, self._file_checked_at_s = None, float("-inf")

    async def _purge_erased_hashes(self) -> None:
        """Remove copies of erased hashes, now and then. What stands in the way, a full disk, say, stops no folding."""
        now_s, is_done = time.monotonic(), False
        if not self._projection_file.has_erased_hashes or self.rebuilding or now_s < self._purge_at_s:
            return
        try:
            is_done = await self._projection_file.purge_erased_hashes()
        except sqlite3.OperationalError as error:
            self._observer.failed(error)
        took_s = time.monotonic() - now_s
        self._purge_at_s = (
            now_s + took_s + max(PURGE_INTERVAL_S if is_done else PURGE_RETRY_S, PURGE_REST_RATIO * took_s)
        )

    async def _check_file(self) -> None:
        now_s = time.monotonic()
        if now_s - self._file_checked_at_s >= self._options.file_check_s:
            self._file_checked_at_s = now_s
            await self._adopt()
            if not await self._projection_file.is_file_in_place():
                raise InvalidProjection("it was deleted or replaced while in use")

    async def _adopt(self) -> None:
        """Go on with the file that a rebuild has offered, if there is one that fits."""
        try:
            if await self._projection_file.adopt(self._log, self._options.batch_max):
                self._progress.reach(self._projection_file.checkpoint.position)
                self._observer.adopted(self.position)
        except InvalidRebuild as error:
            self._observer.failed(error)

    async def _wait_for_events(self, position: int) -> None:
        """Return when the log is past `position`, the file is found damaged, or `stop` was called."""
        news = asyncio.create_task(_wait_past(self._log, position), name="projections-news")
        wake = asyncio.create_task(self._wait_for_wake(), name="projections-wake")
        try:
            wait_s = max(0.0, self._purge_at_s - time.monotonic()) if self._projection_file.has_erased_hashes else None
            await asyncio.wait({news, wake}, return_when=asyncio.FIRST_COMPLETED, timeout=wait_s)
            if news.done():
                news.result()
        finally:
            news.cancel()
            wake.cancel()
            await asyncio.gather(news, wake, return_exceptions=True)

    async def _linger(self, position: int) -> bool:
        """Let events gather, unless somebody waits for them; whether there is then something else to do than to fold.

        A transaction, two hops between threads and the checkpoint cost as much for one event as for a hundred, and
        hardly any event is asked for by the time it is folded.
        """
        waits = self._log.head().position - position
        is_idle = not (self.rebuilding or self._progress.waiting or self._stopping or self._replace_reason is not None)
        if is_idle and waits < self._options.batch_max:
            self._flush_now.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.delay_s):
                    await self._flush_now.wait()
        return self._stopping or self._replace_reason is not None

    async def _wait_for_wake(self) -> None:
        await self._wake.wait()
        if not self._stopping:
            self._wake.clear()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait_for_wake()


async def _wait_past(log: EventLog, position: int) -> None:
    await log.wait(position)
