"""A log in PostgreSQL as of one moment: one transaction, REPEATABLE READ, on a connection of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import starmap

import asyncpg

from events.record import Head, StoredRow
from events.storage.postgres.head_listener import read_head
from events.storage.postgres.postgres_connection import ANSWER_TIMEOUT_S, Database, close_gracefully
from events.storage.postgres.postgres_schema import COLUMNS

_ROWS = f"SELECT {', '.join(COLUMNS)} FROM events WHERE position > $1 ORDER BY position LIMIT $2"  # noqa: S608  constants


class PostgresSnapshot:
    """Implements events.log.Snapshot."""

    def __init__(self, connection: asyncpg.Connection, head: Head) -> None:
        self.head = head
        self._connection = connection

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        """As Snapshot.rows, but for errors: raises FAILURES."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return list(starmap(StoredRow, await self._connection.fetch(_ROWS, after, limit)))


@asynccontextmanager
async def open_snapshot(database: Database) -> AsyncIterator[PostgresSnapshot]:
    """Raises FAILURES. The server does not end it while whoever takes the rows is slow."""
    connection = await database.connect(idle_in_transaction_session_timeout="0")
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            # Ended by the connection's end: a server that has vanished does not answer a ROLLBACK either.
            await connection.transaction(isolation="repeatable_read", readonly=True).start()
        yield PostgresSnapshot(connection, await read_head(connection))
    finally:
        await close_gracefully(connection)
