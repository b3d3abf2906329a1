"""The files of a log in PostgreSQL. Implements events.media.MediaStore."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import asyncpg

from events.errors import LogBusy, LogUnavailable
from events.media import MediaStat
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
from events.storage.postgres.postgres_read_pool import UNUSED_BYTES, PostgresMediaReader, PostgresReadPool
from events.storage.postgres.vacuum import Vacuum

T = TypeVar("T")

_UPLOADED = """
SELECT coalesce(sum(m.bytes), 0)::bigint FROM media_references AS r JOIN media AS m ON m.id = r.media_id
 WHERE r.holder = $1 AND r.position = 0 AND r.due_at > $2 AND NOT EXISTS (
    SELECT FROM media_references AS used WHERE used.media_id = r.media_id AND used.position > 0)
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
Statements = Callable[[asyncpg.Connection], Awaitable[T]]


class PostgresMedia(PostgresMediaReader):
    """Writes on a connection of its own, a transaction after the other. `clock` gives microseconds, UTC."""

    def __init__(
        self,
        database: Database,
        pool: PostgresReadPool,
        head: HeadListener,
        vacuum: Vacuum,
        clock: Callable[[], int],
    ) -> None:
        super().__init__(partial(pool.fetch, is_long=True))
        self._database = database
        self._head = head
        self._vacuum = vacuum
        self._clock = clock
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
        return await run_upload(PostgresUpload(self, self._clock, (holder, due_at_us)), media_type, chunks, bytes_max)

    async def unused_bytes(self, holder: str) -> int:
        """As MediaStore.unused_bytes."""
        return sum(row[0] for row in await self.fetch(_UPLOADED, holder, self._clock()))

    async def delete_due(self, now_us: int) -> int:
        """As MediaStore.delete_due. Waits for the deletion as PostgresLog.erase does."""

        async def expire(connection: asyncpg.Connection) -> bool:
            expired = await connection.execute(_EXPIRE, now_us, EXPIRED_AT_ONCE)
            await connection.execute(_GIVE_UP_OLD, now_us - ARRIVAL_MAX_US)
            return bool(expired == f"DELETE {EXPIRED_AT_ONCE}")

        while await self.transact(expire):
            pass
        size: int = await self.transact(lambda connection: connection.fetchval(UNUSED_BYTES))
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


class Writer(Protocol):
    """What an upload writes with."""

    async def transact(self, statements: Statements[T]) -> T: ...


class PostgresUpload:
    """Implements Upload. `holder` are the owner, and when the upload is due."""

    def __init__(self, media: Writer, clock: Callable[[], int], holder: tuple[str, int]) -> None:
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
