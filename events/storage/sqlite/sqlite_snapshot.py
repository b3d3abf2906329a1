"""A SQLite log as of one moment: one read transaction on a connection of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from events.integrity.hash_chain import GENESIS
from events.options import LogOptions
from events.record import Head, StoredRow, stored_row
from events.storage.sqlite.sqlite_schema import RAW_COLUMNS, connect_reader

_LAST = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"
_ROWS = f"SELECT {RAW_COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608  constants


class SqliteSnapshot:
    """Implements events.log.Snapshot. `connection` is in a read transaction."""

    def __init__(self, connection: aiosqlite.Connection, head: Head) -> None:
        self.connection = connection
        self.head = head

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        """As Snapshot.rows, but for errors: raises sqlite3.Error."""
        return [stored_row(tuple(row)) for row in await self.connection.execute_fetchall(_ROWS, (after, limit))]


@asynccontextmanager
async def open_snapshot(path: Path, options: LogOptions) -> AsyncIterator[SqliteSnapshot]:
    """Raises sqlite3.Error."""
    connection = await connect_reader(path, options)
    try:
        await connection.execute_fetchall("BEGIN")
        rows = await connection.execute_fetchall(_LAST)  # the first read fixes the moment
        yield SqliteSnapshot(connection, next((Head(*row) for row in rows), Head(0, GENESIS)))
    finally:
        await connection.close()
