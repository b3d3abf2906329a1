"""The files of a log in PostgreSQL. Implements events.media.MediaStore."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from events.errors import LogBusy, LogUnavailable
from events.media import CHUNKS_AT_ONCE, MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStat
from events.storage.media_upload import (
    ARRIVAL_MAX_US,
    EXPIRED_AT_ONCE,
    PIECES_MAX,
    given_up,
    mark_retrieved,
    run_upload,
)
from events.storage.postgres.head_listener import HeadListener
from events.storage.postgres.postgres_connection import ANSWER_TIMEOUT_S, FAILURES, FLUSH, Database, close_gracefully
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from events.storage.postgres.vacuum import Vacuum

T = TypeVar("T")

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
_UPLOADED = """
SELECT coalesce(sum(m.bytes), 0)::bigint FROM media_references AS r JOIN media AS m ON m.id = r.media_id
 WHERE r.holder = $1 AND r.position = 0 AND r.due_at > $2 AND NOT EXISTS (
    SELECT FROM media_references AS used WHERE used.media_id = r.media_id AND used.position > 0)
"""
_CHUNKS = """
SELECT c.number, c.data FROM media AS m JOIN media_chunks AS c ON c.media_id = m.id
 WHERE m.sha256 = $1 AND c.number >= $2 AND c.number < $3
"""

_BEGIN = "INSERT INTO media (media_type, bytes, touched_at) VALUES ($1, 0, $2) RETURNING id"
_TOUCH = """
UPDATE media SET bytes = greatest(bytes, $2), touched_at = $3
 WHERE id = $1 AND sha256 IS NULL AND NOT is_unused RETURNING id
"""
_ADD = """
INSERT INTO media_chunks SELECT $1, $2 + place - 1, data FROM unnest($3::bytea[]) WITH ORDINALITY AS piece (data, place)
ON CONFLICT DO NOTHING -- sent again after a connection was lost
"""
_KEPT = "SELECT id, media_type, bytes FROM media WHERE sha256 = $1 FOR KEY SHARE"
_COMPLETE = """
UPDATE media SET sha256 = $2 WHERE id = $1 AND sha256 IS NULL AND NOT is_unused RETURNING id, media_type, bytes
"""
_HOLD = """
INSERT INTO media_references AS r VALUES ($1, 0, $2, $3)
ON CONFLICT (media_id, position, holder) DO UPDATE SET due_at = greatest(r.due_at, excluded.due_at)
"""
_GIVE_UP = "UPDATE media SET is_unused = true WHERE id = $1 AND sha256 IS NULL AND NOT is_unused"
_GIVE_UP_OLD = "UPDATE media SET is_unused = true WHERE sha256 IS NULL AND NOT is_unused AND touched_at < $1"
_EXPIRE = """
DELETE FROM media_references AS r USING (
    SELECT media_id, holder FROM media_references WHERE position = 0 AND due_at <= $1 ORDER BY media_id LIMIT $2
) AS due WHERE r.media_id = due.media_id AND r.position = 0 AND r.holder = due.holder AND r.due_at <= $1
"""
_UNUSED_BYTES = "SELECT coalesce(sum(bytes), 0)::bigint FROM media WHERE sha256 IS NULL AND is_unused"

Statements = Callable[[asyncpg.Connection], Awaitable[T]]


class PostgresMedia:
    """Writes on a connection of its own, a transaction after the other. `clock` gives microseconds, UTC."""

    def __init__(
        self,
        database: Database,
        pool: PostgresReadPool,
        head: HeadListener,
        vacuum: Vacuum,
        clock: Callable[[], int],
    ) -> None:
        self._database = database
        self._pool = pool
        self._head = head
        self._vacuum = vacuum
        self._clock = clock
        self._has_tables = False
        self._is_open = False  # to writes
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._connection: asyncpg.Connection | None = None

    def open_to_writes(self) -> None:
        self._is_open = self._has_tables = True

    async def close(self) -> None:
        self._is_open = False
        async with self._turn:
            connection, self._connection = self._connection, None
            await close_gracefully(connection)

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        """As MediaStore.put. Raises LogBusy when too many pieces wait, ValueError for a NUL in the media type or the
        holder.
        """
        if "\0" in media_type or "\0" in holder:
            raise ValueError("neither a media type nor an owner can hold a NUL")
        return await run_upload(_Upload(self, self._clock, (holder, due_at_us)), media_type, chunks, bytes_max)

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        """As MediaStore.stat."""
        rows = await self._fetch(_STAT, [bytes.fromhex(one) for one in sha256]) if sha256 else []
        return {digest.hex(): MediaStat(digest.hex(), media_type, size) for digest, media_type, size in rows}

    async def files(self, *, after: str = "", limit: int) -> list[MediaStat]:
        """As MediaReader.files."""
        rows = await self._fetch(_FILES, bytes.fromhex(after), limit)
        return [MediaStat(digest.hex(), media_type, size) for digest, media_type, size in rows]

    async def left_bytes(self) -> int:
        """As MediaReader.left_bytes."""
        return sum(row[0] for row in await self._fetch(_UNUSED_BYTES))

    async def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As MediaStore.read."""
        found = (await self.stat([sha256])).get(sha256)
        if found is None:
            raise MediaMissing(sha256)
        digest, start = bytes.fromhex(sha256), max(start, 0)
        until = found.bytes if end is None else min(end, found.bytes)
        behind = -(-until // MEDIA_CHUNK_BYTES)  # the number of the chunk after the last
        for first in range(start // MEDIA_CHUNK_BYTES, behind, CHUNKS_AT_ONCE):
            after = min(first + CHUNKS_AT_ONCE, behind)
            chunks = dict(map(tuple, await self._fetch(_CHUNKS, digest, first, after)))
            for number in range(first, after):
                if number not in chunks:  # it was deleted meanwhile
                    raise MediaMissing(sha256)
                offset = number * MEDIA_CHUNK_BYTES
                yield chunks.pop(number)[max(start - offset, 0) : until - offset]

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        """As MediaStore.references."""
        query = _REFERENCES if holder is None else _REFERENCES_OF
        return [MediaReference(*row) for row in await self._fetch(query, bytes.fromhex(sha256), limit, holder)]

    async def unused_bytes(self, holder: str) -> int:
        """As MediaStore.unused_bytes."""
        return sum(row[0] for row in await self._fetch(_UPLOADED, holder, self._clock()))

    async def delete_due(self, now_us: int) -> int:
        """As MediaStore.delete_due. Waits for the deletion as PostgresLog.erase does."""

        async def expire(connection: asyncpg.Connection) -> bool:
            expired = await connection.execute(_EXPIRE, now_us, EXPIRED_AT_ONCE)
            await connection.execute(_GIVE_UP_OLD, now_us - ARRIVAL_MAX_US)
            return bool(expired == f"DELETE {EXPIRED_AT_ONCE}")

        while await self.transact(expire):
            pass
        size: int = await self.transact(lambda connection: connection.fetchval(_UNUSED_BYTES))
        if size:
            self._vacuum.request()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._database.options.erase_wait_s):
                    await self._vacuum.clean.wait()
        return size

    async def transact(self, statements: Statements[T]) -> T:
        """The result of `statements`, in one transaction, which is repeated where a connection is lost. Raises what
        they raise, LogUnavailable.
        """
        if not self._is_open:
            raise LogUnavailable("the log was opened for reading only, or is closed")
        if self._waiting >= PIECES_MAX:
            raise LogBusy(f"{PIECES_MAX} pieces of files wait already")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._database.retry(lambda: self._try(statements))
        finally:
            self._waiting -= 1

    async def _try(self, statements: Statements[T]) -> T:
        """Raises FAILURES, LogUnavailable."""
        if not self._is_open:
            raise LogUnavailable("the log is closed")
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._database.connect()
                await self._connection.execute(FLUSH)
                await self._database.check_not_rewound(self._connection, self._head.head.current)
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._connection.transaction():
                return await statements(self._connection)
        except (*FAILURES, LogUnavailable, asyncio.CancelledError) as error:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.terminate()
            if isinstance(error, asyncpg.UniqueViolationError):  # another node has completed the same file just now
                raise asyncpg.SerializationError("the same file arrived twice") from error
            raise

    async def _fetch(self, query: str, *values: Any) -> list[Any]:
        """The rows of `query`; none where the log has no tables for files, as one of version 0.5."""
        if not self._has_tables:
            ((self._has_tables,),) = await self._pool.fetch(_HAS_TABLES)
            if not self._has_tables:
                return []
        return await self._pool.fetch(query, *values, is_long=True)


class _Upload:
    """Implements Upload. `holder` are the owner, and when the upload is due."""

    def __init__(self, media: PostgresMedia, clock: Callable[[], int], holder: tuple[str, int]) -> None:
        self._media = media
        self._clock = clock
        self._holder = holder
        self._id: int | None = None
        self._size = 0
        self._abandoning: asyncio.Task[object] | None = None

    async def begin(self, media_type: str) -> None:
        self._id = await self._media.transact(lambda connection: connection.fetchval(_BEGIN, media_type, self._clock()))

    async def add(self, number: int, chunks: list[bytes]) -> None:
        self._size += sum(map(len, chunks))

        async def add(connection: asyncpg.Connection) -> bool:
            if await connection.fetchval(_TOUCH, self._id, self._size, self._clock()) is None:
                return False
            await connection.execute(_ADD, self._id, number, chunks)
            return True

        if not await self._media.transact(add):
            raise given_up()

    async def finish(self, sha256: bytes) -> MediaStat:
        async def finish(connection: asyncpg.Connection) -> MediaStat:
            kept = await connection.fetchrow(_KEPT, sha256)
            if kept is None:
                kept = await connection.fetchrow(_COMPLETE, self._id, sha256)
            elif kept[0] != self._id:
                await connection.execute(_GIVE_UP, self._id)
            if kept is None:
                raise given_up()
            await connection.execute(_HOLD, kept[0], *self._holder)
            return MediaStat(sha256.hex(), kept[1], kept[2])

        return await self._media.transact(finish)

    def abandon(self) -> None:
        if self._id is not None:
            give_up = self._media.transact(lambda connection: connection.execute(_GIVE_UP, self._id))
            self._abandoning = asyncio.ensure_future(give_up)
            self._abandoning.add_done_callback(mark_retrieved)
