"""A connection pool for reading a log in PostgreSQL, and snapshots on connections of their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import starmap
from typing import Any

import asyncpg

from events.errors import LogBusy, LogUnavailable
from events.record import Head, StoredRow
from events.storage.postgres.postgres_connection import (
    ANSWER_TIMEOUT_S,
    FAILURES,
    Database,
    close_gracefully,
    explain,
    is_damage,
    read_head,
    unavailable,
)
from events.storage.postgres.postgres_media_reader import PostgresMediaReader
from events.storage.postgres.postgres_schema import COLUMNS

WAITING_MAX = 10_000  # reads that wait for a connection; the next one is refused with LogBusy

ROWS = f"SELECT {', '.join(COLUMNS)} FROM events WHERE position > $1 ORDER BY position LIMIT $2"  # noqa: S608  constants


class PostgresReadPool:
    """At most `read_connections`, made when they are needed. Long reads take turns on all of them but one, so that a
    read of ten rows never waits for one of a thousand. A read whose connection is lost is repeated.
    """

    def __init__(self, database: Database) -> None:
        number = database.options.read_connections
        self.damage: str | None = None
        self._database = database
        self._idle: list[asyncpg.Connection] = []
        self._busy: set[asyncpg.Connection] = set()
        self._any = asyncio.Semaphore(number)
        self._long = asyncio.Semaphore(max(1, number - 1))
        self._waiting = 0
        self._closed = False

    async def fetch(self, query: str, *values: Any, is_long: bool = False) -> list[Any]:
        """The rows of one query. Raises LogUnavailable when the database cannot be read or the log is closed, LogBusy
        when too many reads wait.
        """
        if self._closed:
            raise LogUnavailable("the log is closed")
        if self._waiting >= WAITING_MAX:
            raise LogBusy(f"{WAITING_MAX} reads wait already")
        self._waiting += 1
        try:
            async with AsyncExitStack() as permits:
                if is_long:
                    await permits.enter_async_context(self._long)
                await permits.enter_async_context(self._any)
                return await self._database.retry(lambda: self._try_fetch(query, values))
        finally:
            self._waiting -= 1

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["PostgresSnapshot"]:
        """On a connection of its own. Raises LogUnavailable."""
        try:
            async with open_snapshot(self._database) as opened:
                yield opened
        except FAILURES as error:
            raise unavailable(error, self._database.label) from error

    async def close(self) -> None:
        """Close every connection; a read that is under way fails."""
        self._closed = True
        for connection in self._busy:
            connection.terminate()
        await asyncio.sleep(0)  # a cancelled read puts its connection back
        while self._idle:
            await close_gracefully(self._idle.pop())

    async def _try_fetch(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        """Raises FAILURES, LogUnavailable."""
        try:
            return await self._fetch(query, values)
        except FAILURES as error:
            if self._closed:
                raise LogUnavailable("the log is closed") from error
            if is_damage(error):
                self.damage = explain(error, self._database.label)
            raise

    async def _fetch(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        connection = await self._connection()
        self._busy.add(connection)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                rows: list[Any] = await connection.fetch(query, *values)
        except asyncio.CancelledError:  # asyncpg has the server stop the query, and waits for that
            self._idle.append(connection)
            raise
        except BaseException:
            connection.terminate()
            raise
        finally:
            self._busy.discard(connection)
        self._idle.append(connection)
        return rows

    async def _connection(self) -> asyncpg.Connection:
        if self._closed:
            raise LogUnavailable("the log is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await self._database.connect()


class PostgresSnapshot:
    """A log as of one moment: one transaction, REPEATABLE READ. Implements events.log.Snapshot."""

    def __init__(self, connection: asyncpg.Connection, head: Head) -> None:
        self.head = head
        self.media = PostgresMediaReader(self._fetch)
        self._connection = connection

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        """As Snapshot.rows, but for errors: raises FAILURES."""
        return list(starmap(StoredRow, await self._fetch(ROWS, after, limit)))

    async def _fetch(self, query: str, *values: Any) -> list[Any]:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            rows: list[Any] = await self._connection.fetch(query, *values)
            return rows


@asynccontextmanager
async def open_snapshot(database: Database) -> AsyncIterator[PostgresSnapshot]:
    """Raises FAILURES. The server does not end it while the consumer of the rows is slow."""
    connection = await database.connect(idle_in_transaction_session_timeout="0")
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            # Ended by the connection's end: a server that has vanished does not answer a ROLLBACK either.
            await connection.transaction(isolation="repeatable_read", readonly=True).start()
        yield PostgresSnapshot(connection, await read_head(connection))
    finally:
        await close_gracefully(connection)
