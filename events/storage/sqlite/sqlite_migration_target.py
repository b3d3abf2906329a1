"""A file that a log is copied into. Implements events.transfer.migration.Target."""

import asyncio
import sqlite3
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import aiosqlite

from events.errors import LogUnavailable, LogUnusable
from events.integrity.hash_chain import GENESIS
from events.options import LogOptions
from events.record import Columns, Head
from events.storage.database_lock import DatabaseLock
from events.storage.erasure_rules import ERASE_ALL_EXPLAINED, without_erased
from events.storage.incomplete_log import WritingCommand
from events.storage.sqlite.sqlite_batch_store import ERASE
from events.storage.sqlite.sqlite_schema import COLUMNS, connect_writer, explain, mark

_ROW = "(" + ",".join("?" * len(COLUMNS.split(","))) + ")"
_LAST = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"


class SqliteMigrationTarget:
    """Made by `open`, which locks the file; must be closed."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, lock: DatabaseLock) -> None:
        self.head = Head(0, GENESIS)
        self._path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    async def open(cls, path: Path) -> "SqliteMigrationTarget":
        """Lock and open the file, made if missing. Raises LogUnusable, of which LogInUse is one."""
        path = await asyncio.to_thread(path.resolve)
        lock = DatabaseLock(path)
        await asyncio.to_thread(lock.acquire)
        try:
            connection = await connect_writer(path, LogOptions(), create=True, work=WritingCommand.MIGRATE)
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
        written, erasures = without_erased(rows)
        values = ",".join([_ROW] * len(written))
        insert = f"INSERT INTO events ({COLUMNS}) VALUES {values}"  # noqa: S608  constants
        statements: list[tuple[str, Sequence[object]]] = [(insert, list(chain.from_iterable(written)))]
        await self._execute(
            [(mark(WritingCommand.MIGRATE), ()), *statements, *((ERASE, erasure) for erasure in erasures)]
        )
        self.head = Head(rows[-1][0], rows[-1][10])

    async def finish_erasures(self) -> None:
        """As Target.finish_erasures."""
        await self._execute([(ERASE_ALL_EXPLAINED, ())])

    async def finish(self) -> None:
        """As Target.finish."""
        await self._execute([(mark(None), ())])

    async def close(self) -> None:
        """Empty the write-ahead log, close the file, let go of the lock."""
        try:
            await self._connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            await self._connection.close()
            self._lock.release()

    async def _execute(self, statements: Sequence[tuple[str, Sequence[object]]]) -> None:
        """All of them in one transaction."""
        try:
            await self._connection.execute_fetchall("BEGIN IMMEDIATE")
            try:
                for statement, values in statements:
                    await self._connection.execute_fetchall(statement, values)
                await self._connection.execute_fetchall("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled it back already
                    await self._connection.execute_fetchall("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise LogUnavailable(explain(error, self._path) or f"database {self._path}: {error}") from error
