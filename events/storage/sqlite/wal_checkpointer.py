"""Keeps the write-ahead log short while commits go on.

SQLite's own checkpoint runs inside a commit, which then waits for thousands of pages to be copied into the file and
synced. Here a second connection, with a thread of its own, copies them beside the commits, then what has come
meanwhile. The little that is left at last is copied between two commits, so that the next one begins the log anew.
"""

import asyncio
import os
import sqlite3
from contextlib import suppress
from itertools import chain
from pathlib import Path

import aiosqlite

from events.errors import LogError, LogUnavailable
from events.options import LogOptions
from events.storage.sqlite.batched_connection import run_in_thread
from events.storage.sqlite.sqlite_schema import connect_writer
from events.storage.sqlite.write_lock import WriteLock

PAGE_BYTES = 4096
NEW_PAGES = 4000  # 16 MB: so long a log is begun anew. A page that changes often is then copied once
TAIL_PAGES = 150  # so many may be left for the time between two commits: 2 or 3 milliseconds
PASSES_MAX = 4  # beside the commits, each with less to copy; then all the rest is copied, however much it is
BUSY_MS = 100  # how long one attempt to empty the write-ahead log may hold up the appends
_flush = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
_BUSY_RESULT = (1, -1, -1)  # as SQLite says it where another connection is copying
_PASSIVE = "PRAGMA wal_checkpoint(PASSIVE)"  # waits for nobody, and nobody waits for it


class WalCheckpointer:
    """For the one task that writes. Errors of the copying are passed over: commits meet their own.

    Where other processes write the file, too, `turn` is how they keep off while the rest is copied. One that finds
    another copying leaves it to that one.
    """

    def __init__(self, path: Path, options: LogOptions, write_lock: WriteLock | None = None) -> None:
        self._path = path
        self._options = options
        self._write_lock = write_lock
        self._pages = 0  # in the log: an estimate, set right by each pass
        self._pages_seen = 0  # of them, those that the last pass has seen
        self._pass_count = 0
        self._new_pages = min(NEW_PAGES, options.wal_limit_bytes // PAGE_BYTES // 2)
        self._due = self._new_pages  # so many are to be begun anew
        self._connection: aiosqlite.Connection | None = None
        self._descriptor: int | None = None
        self._copying: asyncio.Task[None] | None = None

    def note_growth(self, rows: int, size: int) -> None:
        """`rows` with `size` bytes of content were committed: a page of the index for each, or nearly."""
        self._pages += rows + size // PAGE_BYTES + 2

    async def checkpoint_if_due(self, writer: aiosqlite.Connection) -> None:
        """Do what is due; `writer` is the connection that commits, and does not now. Raises sqlite3.Error."""
        if self._pages < self._due:
            return
        if self._pages * PAGE_BYTES >= self._options.wal_limit_bytes:
            await self.empty(writer)  # copying does not keep up, or readers are in the way: now appends wait
        elif self._copying is not None and not self._copying.done():
            return
        elif self._pages - self._pages_seen > TAIL_PAGES and self._pass_count < PASSES_MAX:
            self._pass_count += 1
            self._copying = asyncio.create_task(self._copy(), name="write-ahead")
        else:
            self._ended(*await self._between_commits(writer, _PASSIVE))

    async def empty(self, writer: aiosqlite.Connection) -> bool:
        """Whether nothing is left in the log; waits BUSY_MS for readers. Raises sqlite3.Error."""
        await self._end_copying()
        await writer.execute_fetchall(f"PRAGMA busy_timeout={BUSY_MS}")
        try:
            busy, frames, copied = await self._between_commits(writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await writer.execute_fetchall(f"PRAGMA busy_timeout={round(self._options.busy_timeout_s * 1000)}")
        self._ended(busy, frames, copied)
        return not busy and frames <= 0

    async def close(self) -> None:
        """Let go of the file."""
        await self._end_copying()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _between_commits(self, writer: aiosqlite.Connection, statement: str) -> tuple[int, int, int]:
        write_lock = self._write_lock
        if write_lock is None:
            return await _checkpoint(writer, statement)

        def checkpoint_locked(connection: sqlite3.Connection) -> tuple[int, int, int]:
            with write_lock.held(BUSY_MS / 1000):
                result: tuple[int, int, int] = connection.execute(statement).fetchone()
                return result

        try:
            return await run_in_thread(writer, checkpoint_locked)
        except LogUnavailable:
            return _BUSY_RESULT

    async def _end_copying(self) -> None:
        copying, self._copying = self._copying, None
        if copying is not None:
            await asyncio.wait([copying])

    def _ended(self, busy: int, frames: int, copied: int) -> None:
        """A pass between two commits has ended: if it was complete, the next commit begins the log anew."""
        is_whole = not busy and frames == copied
        self._pages = self._pages_seen = 0 if is_whole else max(frames, 0)
        self._pass_count = 0
        self._due = self._pages + self._new_pages  # if some are left, a reader needs them: not every commit is to try

    async def _copy(self) -> None:
        try:
            if self._connection is None:
                self._connection = await connect_writer(self._path, self._options, create=False)
            before = self._pages
            _, frames, _ = await _checkpoint(self._connection, _PASSIVE)
            self._pages_seen = max(frames, 0)
            self._pages += self._pages_seen - before
            self._descriptor = await asyncio.to_thread(_sync, self._path, self._descriptor)
        except (sqlite3.Error, LogError):
            self._pages_seen = self._pages
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.close()


async def _checkpoint(connection: aiosqlite.Connection, statement: str) -> tuple[int, int, int]:
    """Whether it was kept from working; pages in the write-ahead log; pages of it that are copied."""
    ((busy, frames, copied),) = await connection.execute_fetchall(statement)
    return busy, frames, copied


def _sync(path: Path, descriptor: int | None) -> int | None:
    """Have what was copied reach the disk; SQLite does so only in a pass that nobody has committed beside. Returns the
    descriptor used, for the next time: one that SQLite has open, because to open the file again and close it would
    drop the locks of SQLite in this process.
    """
    with suppress(OSError):  # nothing depends on it but the length of the last pass
        file = path.stat()
        known = [] if descriptor is None else [descriptor]
        for number in chain(known, (int(entry.name) for entry in Path("/dev/fd").iterdir())):
            with suppress(OSError):
                if os.path.samestat(os.fstat(number), file):
                    _flush(number)
                    return number
    return None
