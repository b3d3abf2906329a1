"""The SQLite store of the projections: owns projections.db, its lock, its writer thread and its read connections."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from events.log import EventLog
from events.record import RecordedEvent
from projections.checkpoint import Apply, find_mismatch, fold_log
from projections.errors import (
    InvalidProjection,
    InvalidRebuild,
    LogReplaced,
    ProjectionsUnavailable,
    ProjectionsUnusable,
)
from projections.port import Checkpoint
from projections.sqlite import sqlite_file
from projections.sqlite.projection_paths import PathLock, delete_leftovers, swap_in, take_ready_file
from projections.sqlite.projection_writer import ProjectionWriter
from projections.sqlite.queries import SqliteQueries
from projections.sqlite.read_connection import ReadConnection
from projections.sqlite.sqlite_errors import is_corrupt_or_inconsistent

P = ParamSpec("P")
T = TypeVar("T")


class ProjectionFile:
    """Implements port.ProjectionStore, in whose words the methods are described."""

    purges_while_folding = False

    def __init__(self, path: Path, on_available: Callable[[bool], None] | None = None) -> None:
        """`on_available`: called with False before the file is replaced and with True when it can be opened again, for
        readers in other processes.
        """
        self.checkpoint = Checkpoint()
        self.has_erased_hashes = False
        self.on_trouble: Callable[[str | None], None] = _ignore
        self._path = path
        self._on_available = on_available or _ignore_available
        self._reader = ReadConnection(path, self._report_trouble)
        self.queries = SqliteQueries(self._reader)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="projections")
        self._lock: PathLock | None = None
        self._writer: ProjectionWriter | None = None

    async def open(self, log: EventLog) -> str | None:
        try:
            self._lock = await self._in_thread(_lock, self._path)
            await self._open_writer()
            reason = await find_mismatch(self.checkpoint, log)
            if reason is not None:
                raise LogReplaced(self._path, reason)
            await self._open_reader()
        except InvalidProjection as error:
            return str(error)
        except (OSError, sqlite3.Error) as error:
            raise ProjectionsUnusable(f"projections {self._path} cannot be opened: {error}") from error
        return None

    async def replace(self) -> None:
        self._on_available(False)
        await self._reader.close()
        await self._close_writer()
        with _store_errors():
            await self._in_thread(sqlite_file.delete, self._path)
            await self._open_writer()
            await self._open_reader()

    async def adopt(self, log: EventLog, batch_max: int) -> bool:
        with _store_errors():
            taken = await self._in_thread(take_ready_file, self._path)
            if taken is None:
                return False
            await self._prepare(taken, log, batch_max)
            self._on_available(False)
            await self._reader.pause()
            await self._close_writer()
            await self._in_thread(swap_in, taken, self._path)
            await self._open_writer()
            await self._open_reader()
        return True

    async def _prepare(self, taken: Path, log: EventLog, batch_max: int) -> None:
        """Fold into the file at `taken` what this one has folded beyond it."""
        try:
            writer = await self._in_thread(ProjectionWriter, taken)
            try:
                await log.latest()  # the child process may have folded events that this process has not seen
                reason = await find_mismatch(writer.checkpoint, log)
                if reason is None:
                    await fold_log(log, self._apply_to(writer), writer.checkpoint, batch_max, self.checkpoint.position)
            finally:
                await self._in_thread(writer.close)
        except (InvalidProjection, ProjectionsUnusable) as error:
            raise InvalidRebuild(f"the rebuilt file is of no use: {error}") from error
        if reason is not None:
            raise InvalidRebuild(f"the rebuilt file is of no use: {reason}")

    def _apply_to(self, writer: ProjectionWriter) -> Apply:
        return lambda batch, checkpoint: self._in_thread(writer.apply, batch, checkpoint)

    async def apply(self, batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> frozenset[str]:
        if self._writer is None:
            raise InvalidProjection("it could not be replaced")
        with _store_errors():
            owners = await self._in_thread(self._writer.apply, batch, checkpoint)
        self._note_writer(self._writer)
        return owners

    async def purge_erased_hashes(self) -> bool:
        if self._writer is None:
            return False
        with _store_errors():
            is_done = await self._in_thread(self._writer.purge_erased_hashes)
        self._note_writer(self._writer)
        return is_done

    async def is_in_place(self) -> bool:
        return self._writer is not None and await self._in_thread(self._writer.is_file_in_place)

    async def close(self) -> None:
        await self._reader.close()
        await self._close_writer()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._thread.shutdown(wait=False)

    def _report_trouble(self, reason: str | None) -> None:
        self.on_trouble(reason)

    async def _open_reader(self) -> None:
        await self._reader.open()
        self._on_available(True)

    async def _open_writer(self) -> None:
        self._writer = await self._in_thread(ProjectionWriter, self._path)
        self._note_writer(self._writer)

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        self.checkpoint, self.has_erased_hashes = Checkpoint(), False
        if writer is not None:
            await self._in_thread(writer.close)

    def _note_writer(self, writer: ProjectionWriter) -> None:
        self.checkpoint, self.has_erased_hashes = writer.checkpoint, writer.has_erased_hashes

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))


def _ignore(_reason: str | None) -> None:
    """Until the runner sets its own."""


def _ignore_available(_is_available: bool) -> None:
    """No other process reads the file."""


@contextmanager
def _store_errors() -> Iterator[None]:
    """Raises the port's errors in place of those of SQLite and the file system."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise ProjectionsUnavailable(f"the projections cannot be written: {error}") from error
    except sqlite3.DatabaseError as error:
        if is_corrupt_or_inconsistent(error):
            raise InvalidProjection(f"it is damaged ({error})") from error
        raise


def _lock(path: Path) -> PathLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = PathLock(path)
    try:
        delete_leftovers(path)
    except BaseException:
        lock.release()
        raise
    return lock
