"""The migration of a log into a SQLite file. Implements events.transfer.migration.MigrationTarget."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from events.errors import LogUnavailable
from events.integrity.hash_chain import GENESIS
from events.media import MediaStat
from events.record import Columns, Head
from events.storage.database_lock import DatabaseLock
from events.storage.erasure_rules import ERASE_ALL_EXPLAINED, without_erased
from events.storage.incomplete_log import WritingCommand
from events.storage.sqlite.batched_connection import Call, run_in_thread
from events.storage.sqlite.sqlite_errors import unavailable
from events.storage.sqlite.sqlite_media_copy import SqliteMediaCopy
from events.storage.sqlite.sqlite_schema import (
    commit,
    erase_content,
    insert_rows,
    mark,
    open_exclusive,
    read_head,
)

T = TypeVar("T")


class SqliteMigrationTarget:
    """A log that is copied into. Made by `open`, which locks the file; must be closed."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, lock: DatabaseLock) -> None:
        self.head = Head(0, GENESIS)
        self._path = path
        self._connection = connection
        self._lock = lock
        self._media = SqliteMediaCopy(connection)

    @classmethod
    async def open(cls, path: Path) -> "SqliteMigrationTarget":
        """Lock and open the file, created if missing. Raises LogUnusable, of which LogInUse is one."""
        path = await asyncio.to_thread(path.resolve)
        connection, lock = await open_exclusive(path, WritingCommand.MIGRATE, create=True)
        target = cls(path, connection, lock)
        target.head = await run_in_thread(connection, read_head)
        return target

    async def missing_media(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """As FileTarget.missing_media."""
        return await self._handle_errors(self._media.missing(digests))

    async def add_media(self, stat: MediaStat, pieces: AsyncIterator[bytes]) -> None:
        """As FileTarget.add_media."""
        await self._commit(lambda raw: raw.execute(mark(WritingCommand.MIGRATE)))
        await self._handle_errors(self._media.add(stat, pieces))

    async def add(self, rows: Sequence[Columns]) -> None:
        """As MigrationTarget.add."""
        written, erasures = without_erased(rows)

        def add_rows(raw: sqlite3.Connection) -> None:
            raw.execute(mark(WritingCommand.MIGRATE))
            insert_rows(raw, written)
            erase_content(raw, erasures)

        await self._commit(add_rows)
        self.head = Head(rows[-1][0], rows[-1][10])

    async def finish_erasures(self) -> None:
        """As MigrationTarget.finish_erasures."""
        await self._commit(lambda raw: raw.execute(ERASE_ALL_EXPLAINED))

    async def finish(self) -> None:
        """As MigrationTarget.finish."""
        await self._handle_errors(self._media.finish())
        await self._commit(lambda raw: raw.execute(mark(None)))

    async def close(self) -> None:
        """Empty the write-ahead log, close the file, release the lock."""
        try:
            await self._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await self._connection.close()
            self._lock.release()

    async def _commit(self, write: Call[object]) -> None:
        await self._handle_errors(commit(self._connection, write))

    async def _handle_errors(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises LogUnavailable in place of sqlite3.Error."""
        try:
            return await work
        except sqlite3.Error as error:
            raise unavailable(error, self._path) or LogUnavailable(f"database {self._path}: {error}") from error
