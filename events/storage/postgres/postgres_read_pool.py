"""A connection pool for reading a log in PostgreSQL and its files, and snapshots on connections of their own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from itertools import starmap
from typing import Any

import asyncpg

from events.errors import LogBusy, LogUnavailable
from events.media import CHUNKS_AT_ONCE, MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStat
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
from events.storage.postgres.postgres_schema import COLUMNS

WAITING_MAX = 10_000  # reads that wait for a connection; the next one is refused with LogBusy

ROWS = f"SELECT {', '.join(COLUMNS)} FROM events WHERE position > $1 ORDER BY position LIMIT $2"  # noqa: S608  constants

UNUSED_BYTES = "SELECT coalesce(sum(bytes), 0)::bigint FROM media WHERE sha256 IS NULL AND is_unused"
_HAS_TABLES = "SELECT to_regclass('media') IS NOT NULL"
_STAT = "SELECT sha256, media_type, bytes FROM media WHERE sha256 = ANY($1::bytea[])"
_FILES = "SELECT sha256, media_type, bytes FROM media WHERE sha256 > $1 ORDER BY sha256 LIMIT $2"
_REFERENCES = """
SELECT r.position, r.holder FROM media AS m JOIN media_references AS r ON r.media_id = m.id
 WHERE m.sha256 = $1 AND ($3::text IS NULL OR r.holder = $3) ORDER BY r.position DESC LIMIT $2
"""
_REFERENCES_OF = """
SELECT r.position, r.holder FROM media_references AS r JOIN media AS m ON m.id = r.media_id
 WHERE r.holder = $3 AND m.sha256 = $1 ORDER BY r.position DESC LIMIT $2
"""
_CHUNKS = """
SELECT c.number, c.data FROM media AS m JOIN media_chunks AS c ON c.media_id = m.id
 WHERE m.sha256 = $1 AND c.number >= $2 AND c.number < $3
"""


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
            async with self._long if is_long else nullcontext(), self._any:
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


class PostgresMediaReader:
    """Implements events.media.MediaReader. `fetch` gives the rows of a query. A log that version 0.5 wrote last has no
    tables for files, and so no files.
    """

    def __init__(self, fetch: Callable[..., Awaitable[list[Any]]]) -> None:
        self._fetch = fetch
        self._has_tables = False

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        """As MediaReader.stat."""
        rows = await self.fetch(_STAT, [bytes.fromhex(one) for one in sha256]) if sha256 else []
        return {digest.hex(): MediaStat(digest.hex(), media_type, size) for digest, media_type, size in rows}

    async def files(self, *, after: str = "", limit: int) -> list[MediaStat]:
        """As MediaReader.files."""
        rows = await self.fetch(_FILES, bytes.fromhex(after), limit)
        return [MediaStat(digest.hex(), media_type, size) for digest, media_type, size in rows]

    async def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As MediaReader.read."""
        found = (await self.stat([sha256])).get(sha256)
        if found is None:
            raise MediaMissing(sha256)
        digest, start = bytes.fromhex(sha256), max(start, 0)
        until = found.bytes if end is None else min(end, found.bytes)
        behind = -(-until // MEDIA_CHUNK_BYTES)  # the number of the chunk after the last
        for first in range(start // MEDIA_CHUNK_BYTES, behind, CHUNKS_AT_ONCE):
            after = min(first + CHUNKS_AT_ONCE, behind)
            chunks = dict(map(tuple, await self.fetch(_CHUNKS, digest, first, after)))
            for number in range(first, after):
                if number not in chunks:  # it was deleted meanwhile
                    raise MediaMissing(sha256)
                offset = number * MEDIA_CHUNK_BYTES
                yield chunks.pop(number)[max(start - offset, 0) : until - offset]

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        """As MediaReader.references."""
        query = _REFERENCES if holder is None else _REFERENCES_OF
        return [MediaReference(*row) for row in await self.fetch(query, bytes.fromhex(sha256), limit, holder)]

    async def left_bytes(self) -> int:
        """As MediaReader.left_bytes."""
        return sum(row[0] for row in await self.fetch(UNUSED_BYTES))

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        """The rows of `query`; none where the log has no tables for files."""
        if not self._has_tables:
            ((self._has_tables,),) = await self._fetch(_HAS_TABLES)
            if not self._has_tables:
                return []
        return await self._fetch(query, *values)


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
