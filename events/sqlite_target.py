"""A file that a log is copied into. Implements events.migration.Target."""

import asyncio
import sqlite3
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import aiosqlite

from events.chain import GENESIS
from events.errors import LogUnavailable, LogUnusable
from events.lock import DatabaseLock
from events.options import LogOptions
from events.record import Columns, Head
from events.sqlite_schema import COLUMNS, connect_writer, explain

_ROW = "(" + ",".join("?" * len(COLUMNS.split(","))) + ")"
_LAST = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"
_ERASE = "UPDATE events SET data = NULL, salt = NULL WHERE stream_id = ? AND version < ? AND data IS NOT NULL"


class SqliteTarget:
    """Made by `open`, which locks the file; must be closed."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, lock: DatabaseLock) -> None:
        self.head = Head(0, GENESIS)
        self._path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    async def open(cls, path: Path) -> "SqliteTarget":
        """Lock and open the file, made if missing. Raises LogUnusable, of which LogInUse is one."""
        path = await asyncio.to_thread(path.resolve)
        lock = DatabaseLock(path)
        await asyncio.to_thread(lock.acquire)
        try:
            connection = await connect_writer(path, LogOptions(), create=True)
        except BaseException as error:
            lock.release()
            if isinstance(error, sqlite3.Error):
                raise LogUnusable(explain(error, path) or f"database {path}: {error}") from error
            raise
        target = cls(path, connection, lock)
        for position, digest in await connection.execute_fetchall(_LAST):
            target.head = Head(position, digest)
        return target

    async def add(self, rows: Sequence[Columns]) -> None:
        """As Target.add."""
        values = ",".join([_ROW] * len(rows))
        await self._execute(f"INSERT INTO events ({COLUMNS}) VALUES {values}", list(chain.from_iterable(rows)))  # noqa: S608  constants
        self.head = Head(rows[-1][0], rows[-1][10])

    async def erase(self, stream_id: str, version: int) -> None:
        """As Target.erase."""
        await self._execute(_ERASE, (stream_id, version))

    async def close(self) -> None:
        """Empty the write-ahead log, close the file, let go of the lock."""
        try:
            await self._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await self._connection.close()
            self._lock.release()

    async def _execute(self, statement: str, values: Sequence[object]) -> None:
        try:
            await self._connection.execute_fetchall(statement, values)
        except sqlite3.Error as error:
            raise LogUnavailable(explain(error, self._path) or f"database {self._path}: {error}") from error
