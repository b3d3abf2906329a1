"""ProjectionFile of projections.db: locked, opened if it fits the log, replaced if not, written by a thread of its
own."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from events.log import EventLog
from events.record import RecordedEvent
from projections.checkpoint import Checkpoint, find_mismatch
from projections.errors import InvalidProjection, InvalidRebuild, LogReplaced, ProjectionsUnusable
from projections.sqlite import sqlite_file
from projections.sqlite.projection_paths import PathLock, delete_leftovers
from projections.sqlite.projection_writer import ProjectionWriter
from projections.sqlite.read_connection import ReadConnection
from projections.sqlite.rebuild import Apply, fold_log, swap_in, take_ready_file

P = ParamSpec("P")
T = TypeVar("T")


class ProjectionFile:
    """The file, its writing thread and its reader. For one task; only the reader is for everyone."""

    def __init__(self, path: Path, reader: ReadConnection) -> None:
        self._path = path
        self._reader = reader
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="projections")
        self._lock: PathLock | None = None
        self._store: ProjectionWriter | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """How far the file is; nothing at all while it could not be replaced."""
        return self._store.checkpoint if self._store else Checkpoint()

    async def open(self, log: EventLog) -> str | None:
        """Lock the path and open the file, or create it. Returns why it must be replaced, None when it can serve.

        Raises LogReplaced when it has folded events that `log` does not have: to fold what is left would hide
        that they are lost. Raises ProjectionsInUse or ProjectionsUnusable.
        """
        try:
            self._lock = await self._in_thread(_lock, self._path)
            self._store = await self._in_thread(ProjectionWriter, self._path)
            reason = await find_mismatch(self._store.checkpoint, log)
            if reason is not None:
                raise LogReplaced(self._path, reason)
            await self._reader.open()
        except InvalidProjection as error:
            return str(error)
        except (OSError, sqlite3.Error) as error:
            raise ProjectionsUnusable(f"projections {self._path} cannot be opened: {error}") from error
        return None

    async def replace(self) -> None:
        """Delete the file and create it anew. Raises OSError or sqlite3.Error; may then be called again."""
        await self._reader.close()
        if self._store is not None:
            await self._in_thread(self._store.close)
            self._store = None
        await self._in_thread(sqlite_file.delete, self._path)
        self._store = await self._in_thread(ProjectionWriter, self._path)
        await self._reader.open()

    async def adopt(self, log: EventLog, batch_max: int) -> bool:
        """Let the file that a rebuild has offered take this one's place; False when none is offered.

        It first folds whatever this one has folded and it has not, so that answers never go back in time; queries
        wait while the files are swapped. Raises UnfitOffer, and then this one stays; LogUnavailable, OSError,
        sqlite3.Error.
        """
        taken = await self._in_thread(take_ready_file, self._path)
        if taken is None:
            return False
        await self._prepare(taken, log, batch_max)
        await self._reader.pause()
        if self._store is not None:
            await self._in_thread(self._store.close)
            self._store = None
        await self._in_thread(swap_in, taken, self._path)
        self._store = await self._in_thread(ProjectionWriter, self._path)
        await self._reader.open()
        return True

    async def _prepare(self, taken: Path, log: EventLog, batch_max: int) -> None:
        try:
            store = await self._in_thread(ProjectionWriter, taken)
            try:
                await log.latest()  # who made it may have folded what this process has not heard of
                reason = await find_mismatch(store.checkpoint, log)
                if reason is None:
                    await fold_log(log, self._apply_to(store), store.checkpoint, batch_max, self.checkpoint.position)
            finally:
                await self._in_thread(store.close)
        except (InvalidProjection, ProjectionsUnusable) as error:
            raise InvalidRebuild(f"the rebuilt file is of no use: {error}") from error
        if reason is not None:
            raise InvalidRebuild(f"the rebuilt file is of no use: {reason}")

    def _apply_to(self, store: ProjectionWriter) -> Apply:
        return lambda batch, checkpoint: self._in_thread(store.apply, batch, checkpoint)

    async def apply(self, batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> None:
        """As ProjectionWriter.apply."""
        if self._store is None:
            raise InvalidProjection("it could not be replaced")
        await self._in_thread(self._store.apply, batch, checkpoint)

    @property
    def has_erased_hashes(self) -> bool:
        """Whether copies of erased hashes may be left in the file."""
        return self._store is not None and bool(self._store.has_erased_hashes)

    async def purge_erased_hashes(self) -> bool:
        """As ProjectionWriter.scrub."""
        return self._store is not None and await self._in_thread(self._store.purge_erased_hashes)

    async def is_file_in_place(self) -> bool:
        """As ProjectionWriter.is_linked."""
        return self._store is not None and await self._in_thread(self._store.is_file_in_place)

    async def close(self) -> None:
        """Close everything, whatever of it is open."""
        await self._reader.close()
        if self._store is not None:
            await self._in_thread(self._store.close)
            self._store = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))


def _lock(path: Path) -> PathLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = PathLock(path)
    try:
        delete_leftovers(path)
    except BaseException:
        lock.release()
        raise
    return lock
