"""The write-ahead log (WAL) of an open SQLite database: kept short by checkpoints, and watched for loss and truncation.

**Checkpoints.** SQLite's own checkpoint runs inside a commit, which then waits for thousands of pages to be copied into
the database and synced. Here a second connection, with a thread of its own, copies them while commits go on, then what
has been added meanwhile. The little that is left in the end is copied between two commits, so that the next one begins
the log at its start again.

**Loss.** SQLite goes on writing to a write-ahead log that was deleted or replaced: nothing fails until the process
ends, and then everything since the last checkpoint is gone. A deleted shared-memory file lets other processes believe
that no process uses the database.

**Truncation.** Another program may cut the log short, as `: > chatbot.db-wal` does to free disk space. The file keeps
its name, and SQLite goes on writing at its old offset, behind a hole in place of what was recorded. Nothing fails until
pages are copied from there, which would put zeros into the database, or until the process ends. So the length is
checked before every commit, while a checkpoint still meets the end of the file and changes nothing.

**Growth.** A commit that makes the file longer waits for the file system's journal, too, which takes several times as
long as its own bytes do. So zeros are added in advance, ever more: to SQLite they are the end of the log.
"""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path

import aiosqlite
from msgspec import Struct

from events.errors import LogError, LogStopped, LogUnavailable
from events.options import LogOptions

PAGE_BYTES = 4096
NEW_PAGES = 4000  # 16 MB: a log of this length is copied. A page that changes often is then copied once
TAIL_PAGES = 150  # so many may be left to copy between two commits: 2 or 3 milliseconds
PASSES_MAX = 4  # while commits go on, each with less to copy; then all the rest is copied, however much it is
BUSY_MS = 100  # how long one attempt to empty the log may hold up the appends
HEADER_BYTES = 32  # of the log, https://www.sqlite.org/fileformat2.html#walformat
FRAME_BYTES = 24 + PAGE_BYTES  # of a page in it, at least
ADDED_BYTES = (65_536, 4_194_304)  # zeros added at once: at least and at most, between them as many as there are bytes
FREE_BYTES_MIN = 256 * 1024 * 1024  # on the disk: with less, none are added
COMPANIONS = ("-wal", "-shm")  # files beside the database
_flush = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
_PASSIVE = "PRAGMA wal_checkpoint(PASSIVE)"  # neither waits for other connections nor makes them wait

Connect = Callable[[], Awaitable[aiosqlite.Connection]]


class CheckpointStep(Enum):
    """What the checkpointer does next."""

    NOTHING = "nothing"
    COPY = "copy"  # in the background, while commits go on
    FINISH = "finish"  # copy the rest between two commits
    EMPTY = "empty"  # also wait for readers and cut the file: appends wait


class CheckpointSchedule:
    """When to do what, in pages of the log. `pages` is an estimate, which every pass sets right. Pure."""

    def __init__(self, limit_bytes: int) -> None:
        self.pages = 0
        self._limit_pages = -(-limit_bytes // PAGE_BYTES)
        self._new_pages = min(NEW_PAGES, limit_bytes // PAGE_BYTES // 2)
        self._due_pages = self._new_pages
        self._copied_pages = 0  # that the last pass in the background has seen
        self._passes = 0

    def add(self, pages: int) -> None:
        """So many pages were committed."""
        self.pages += pages

    def next_step(self, *, is_copying: bool) -> CheckpointStep:
        """The step for now; `is_copying`: a pass in the background is under way."""
        if self.pages < self._due_pages:
            return CheckpointStep.NOTHING
        if self.pages >= self._limit_pages:
            return CheckpointStep.EMPTY  # copying does not keep up, or readers keep pages in use
        if is_copying:
            return CheckpointStep.NOTHING
        if self.pages - self._copied_pages > TAIL_PAGES and self._passes < PASSES_MAX:
            return CheckpointStep.COPY
        return CheckpointStep.FINISH

    def begin_pass(self) -> None:
        """A pass in the background begins."""
        self._passes += 1

    def end_pass(self, pages_before: int, frames: int) -> None:
        """It found `frames` pages in the log, of which the schedule knew `pages_before` when the pass read them."""
        self._copied_pages = max(frames, 0)
        self.pages += self._copied_pages - pages_before

    def fail_pass(self) -> None:
        """It copied nothing: the rest is for the passes between two commits."""
        self._copied_pages = self.pages

    def finish(self, busy: int, frames: int, copied: int) -> None:
        """A pass between two commits has ended: if it was complete, the next commit begins the log at its start."""
        is_complete = not busy and frames == copied
        self.pages = self._copied_pages = 0 if is_complete else max(frames, 0)
        self._passes = 0
        # Pages that are left are in use by a reader: not every commit is to try again.
        self._due_pages = self.pages + self._new_pages


class WalCheckpointer:
    """Runs the schedule, for the one task that writes. Errors in the background are ignored: commits meet their own.

    `connect` opens the second connection.
    """

    def __init__(self, options: LogOptions, connect: Connect) -> None:
        self.database_descriptor: int | None = None  # of the database's file, open as long as this; None: no sync
        self._options = options
        self._connect = connect
        self._schedule = CheckpointSchedule(options.wal_limit_bytes)
        self._connection: aiosqlite.Connection | None = None
        self._copying: asyncio.Task[None] | None = None

    def note_growth(self, rows: int, size: int) -> None:
        """`rows` with `size` bytes of content were committed: a page of the index for each, or nearly."""
        self._schedule.add(rows + size // PAGE_BYTES + 2)

    async def checkpoint_if_due(self, writer: aiosqlite.Connection) -> None:
        """Do the next step; `writer` is the connection that commits, idle now. Raises sqlite3.Error."""
        step = self._schedule.next_step(is_copying=self._copying is not None and not self._copying.done())
        if step is CheckpointStep.COPY:
            self._schedule.begin_pass()
            self._copying = asyncio.create_task(self._copy(), name="wal-checkpoint")
        elif step is CheckpointStep.FINISH:
            self._schedule.finish(*await _checkpoint(writer, _PASSIVE))
        elif step is CheckpointStep.EMPTY:
            await self.empty(writer)

    async def empty(self, writer: aiosqlite.Connection) -> bool:
        """Whether nothing is left in the log; waits BUSY_MS for readers. Raises sqlite3.Error."""
        await self._end_copying()
        await writer.execute_fetchall(f"PRAGMA busy_timeout={BUSY_MS}")
        try:
            busy, frames, copied = await _checkpoint(writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await writer.execute_fetchall(f"PRAGMA busy_timeout={round(self._options.busy_timeout_s * 1000)}")
        self._schedule.finish(busy, frames, copied)
        return not busy and frames <= 0

    async def close(self) -> None:
        """End the background pass and close its connection."""
        await self._end_copying()
        await self._disconnect()

    async def _end_copying(self) -> None:
        copying, self._copying = self._copying, None
        if copying is not None:
            await asyncio.wait([copying])

    async def _copy(self) -> None:
        try:
            if self._connection is None:
                self._connection = await self._connect()
            pages_before = self._schedule.pages
            _, frames, _ = await _checkpoint(self._connection, _PASSIVE)
            self._schedule.end_pass(pages_before, frames)
            if self.database_descriptor is not None:
                await asyncio.to_thread(_sync, self.database_descriptor)
        except (sqlite3.Error, LogError):
            self._schedule.fail_pass()
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def _checkpoint(connection: aiosqlite.Connection, statement: str) -> tuple[int, int, int]:
    """Whether it could not run; pages in the log; pages of it that are copied."""
    ((busy, frames, copied),) = await connection.execute_fetchall(statement)
    return busy, frames, copied


def _sync(descriptor: int) -> None:
    """Have the copied pages reach the disk: SQLite does so only in a pass during which nothing was committed."""
    with suppress(OSError):  # nothing depends on it but the length of the last pass
        _flush(descriptor)


class FileLoss(Struct, frozen=True):
    """A file is not in its place. `is_final`: this process cannot continue even when the file comes back."""

    reason: str
    is_final: bool


class FileLossDetector:
    """Remembers which files SQLite has opened. All calls block, for microseconds."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._companion_paths = tuple(f"{path}{suffix}" for suffix in COMPANIONS)
        self._file: tuple[int, int] | None = None
        self._companions: tuple[tuple[int, int] | None, ...] = ()

    def remember(self) -> None:
        """The files in place are the open ones: SQLite has just opened them. The database's own is never replaced."""
        self._file = self._file or _identity(self._path)
        self._companions = tuple(map(_identity, self._companion_paths))

    @property
    def is_complete(self) -> bool:
        """Whether the files beside the database are watched, too."""
        return bool(self._companions)

    def forget(self) -> None:
        """SQLite may delete the files beside the database now, as it does when the last connection is closed."""
        self._companions = ()

    def find_loss(self) -> FileLoss | None:
        """The first file that is not the one of `remember`."""
        if _identity(self._path) != self._file:
            return FileLoss(f"database {self._path} was deleted or replaced while in use: stop, and restore it", False)
        for path, remembered in zip(self._companion_paths, self._companions, strict=False):
            if _identity(path) != remembered:
                return FileLoss(
                    f"{path} was deleted or replaced while in use: nothing more is recorded until a restart", True
                )
        return None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  in every commit: half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino


class WalTruncated(LogStopped):
    """What was recorded since the last checkpoint is gone from the file."""


class WalLength:
    """Remembers the length of the log, finds that it was cut short, and makes it longer in advance.

    All calls block: for microseconds, or for a few milliseconds where zeros are added.
    """

    def __init__(self, path: Path, limit_bytes: int = 0) -> None:
        """Zeros are added until the log has `limit_bytes`."""
        self._path = f"{path}-wal"
        self._limit_bytes = limit_bytes
        self._bytes = 0

    def remember(self) -> None:
        """After a commit. Where the file is shorter now, `check` finds before the next one whether SQLite has cut it,
        which it does where it begins at the start again.
        """
        size = self._size()
        if size > self._bytes:
            self._bytes = size
            self._add_zeros()

    def has_shrunk(self) -> bool:
        """Whether the file is shorter than it was, perhaps because another process has emptied it by a checkpoint."""
        size = self._size()
        if size < self._bytes:
            return True
        self._bytes = size
        return False

    def check(self, connection: sqlite3.Connection) -> None:
        """Before a commit, in the connection's thread. Raises WalTruncated, LogUnavailable while another process runs a
        checkpoint, sqlite3.Error.
        """
        if not self.has_shrunk():
            return
        size = self._size()
        try:
            busy, frames, _ = connection.execute(_PASSIVE).fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_IOERR_SHORT_READ":
                raise self._truncated() from error
            raise
        if busy:
            raise LogUnavailable(f"{self._path} is being copied")
        if frames > 0 and size < HEADER_BYTES + frames * FRAME_BYTES:
            raise self._truncated()
        self._bytes = size

    def _add_zeros(self) -> None:
        """Appended, so that nothing is overwritten that another process has written meanwhile."""
        least, most = ADDED_BYTES
        added = min(max(self._bytes, least), most, self._limit_bytes - self._bytes)
        if added <= 0:
            return
        with suppress(OSError):  # of the disk: the next commit meets its own
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                disk, zeros = os.fstatvfs(descriptor), bytes(added)
                has_room = disk.f_bavail * disk.f_frsize >= FREE_BYTES_MIN
                # Last: in a file that was cut meanwhile, zeros would be in place of what is to be missed.
                if has_room and os.fstat(descriptor).st_size == self._bytes:
                    self._bytes += os.write(descriptor, zeros)
            finally:
                os.close(descriptor)

    def _truncated(self) -> WalTruncated:
        return WalTruncated(
            f"{self._path} was cut short while in use, and what was recorded since the last checkpoint with it: nothing"
            " more is recorded; stop, and verify the log"
        )

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size  # noqa: PTH116  in every commit
        except OSError:
            return self._bytes  # a file that is gone is FileLossDetector's matter
