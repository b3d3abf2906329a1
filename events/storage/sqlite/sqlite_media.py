"""The files of a SQLite log. Implements events.media.MediaStore.

The writer's task writes them, a few chunks between two batches of appends; they are read as events are.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from events.errors import LogError, LogUnavailable
from events.media import CHUNKS_AT_ONCE, MEDIA_CHUNK_BYTES, MediaMissing, MediaReference, MediaStat
from events.storage.group_commit import GroupCommit
from events.storage.media_upload import PIECE_BYTES, given_up, mark_retrieved, run_upload
from events.storage.sqlite import sqlite_media_schema as schema
from events.storage.sqlite.batched_connection import Call
from events.storage.sqlite.sqlite_batch_store import SqliteBatchStore
from events.storage.sqlite.sqlite_read_pool import SqliteReadPool

T = TypeVar("T")

DIGESTS_MAX = 500  # in one query

_REFERENCES = (
    "SELECT r.position, r.holder FROM media AS m JOIN media_references AS r ON r.media_id = m.id"
    " WHERE m.sha256 = ? ORDER BY r.position DESC LIMIT ?"
)
_REFERENCES_OF = (  # looked up by the holder: a file may have any number of other references
    "SELECT r.position, r.holder FROM media_references AS r JOIN media AS m ON m.id = r.media_id"
    " WHERE r.holder = ?3 AND m.sha256 = ?1 ORDER BY r.position DESC LIMIT ?2"
)
_UPLOADED = (
    "SELECT coalesce(sum(m.bytes), 0) FROM media_references AS r JOIN media AS m ON m.id = r.media_id"
    " WHERE r.holder = ? AND r.position = 0 AND r.due_at > ? AND NOT EXISTS"
    " (SELECT 1 FROM media_references AS used WHERE used.media_id = r.media_id AND used.position > 0)"
)
_CHUNKS = (
    "SELECT c.id - (m.id << 20), c.data FROM media AS m JOIN media_chunks AS c"
    " ON c.id >= (m.id << 20) + ?2 AND c.id < (m.id << 20) + ?3 WHERE m.sha256 = ?1 ORDER BY c.id"
)


class SqliteMedia:
    """`write_side` is None for a log that is only read. `clock` gives microseconds, UTC."""

    def __init__(
        self,
        pool: SqliteReadPool,
        clock: Callable[[], int],
        write_side: tuple[GroupCommit, SqliteBatchStore] | None,
        erase_wait_s: float,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._write_side = write_side
        self._erase_wait_s = erase_wait_s
        self._has_tables = write_side is not None  # a log that may be written has got them

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        """As MediaStore.put. Raises LogBusy when too many pieces wait."""
        upload = _Upload(self, self._clock, (holder, due_at_us))
        return await run_upload(upload, media_type, chunks, bytes_max)

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        """As MediaStore.stat."""
        found: dict[str, MediaStat] = {}
        for start in range(0, len(sha256), DIGESTS_MAX):
            digests = [bytes.fromhex(one) for one in sha256[start : start + DIGESTS_MAX]]
            query = f"SELECT sha256, media_type, bytes FROM media WHERE sha256 IN ({','.join('?' * len(digests))})"  # noqa: S608  placeholders
            for digest, media_type, size in await self._fetch(query, digests):
                found[digest.hex()] = MediaStat(digest.hex(), media_type, size)
        return found

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
            chunks = dict(await self._fetch(_CHUNKS, (digest, first, after)))
            for number in range(first, after):
                if number not in chunks:  # it was deleted meanwhile
                    raise MediaMissing(sha256)
                offset = number * MEDIA_CHUNK_BYTES
                yield chunks.pop(number)[max(start - offset, 0) : until - offset]

    async def references(self, sha256: str, *, limit: int, holder: str | None = None) -> list[MediaReference]:
        """As MediaStore.references."""
        digest = bytes.fromhex(sha256)
        if holder is None:
            rows = await self._fetch(_REFERENCES, (digest, limit))
        else:
            rows = await self._fetch(_REFERENCES_OF, (digest, limit, holder))
        return [MediaReference(*row) for row in rows]

    async def unused_bytes(self, holder: str) -> int:
        """As MediaStore.unused_bytes."""
        return sum(size for (size,) in await self._fetch(_UPLOADED, (holder, self._clock())))

    async def delete_due(self, now_us: int) -> int:
        """As MediaStore.delete_due. Waits for the deletion as SqliteLog.erase does."""
        writer, store = self._require_write_side()
        if not await self.transact(partial(schema.has_due, now_us=now_us)):  # in order with uploads that failed
            return 0
        while await self.transact(partial(schema.expire, now_us=now_us)):
            pass
        size = await self.transact(schema.unused_bytes)
        await writer.run(store.delete_unused_media)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._erase_wait_s):
                await store.wal_clean.wait()
        return size

    def transact(self, call: Call[T], *, size: int = 0) -> asyncio.Future[T]:
        """As SqliteBatchStore.transact, once it is its turn, whoever waits for it. Raises LogUnavailable."""
        writer, store = self._require_write_side()
        return writer.run(partial(store.transact, call, size=size))

    def _require_write_side(self) -> tuple[GroupCommit, SqliteBatchStore]:
        if self._write_side is None:
            raise LogUnavailable("the log was opened for reading only")
        return self._write_side

    async def _fetch(self, query: str, values: Sequence[Any]) -> list[Any]:
        """The rows of `query`; none where the log has no tables for files, as one of version 0.5."""
        if not self._has_tables:
            self._has_tables = await self._pool.run(schema.has_tables)
            if not self._has_tables:
                return []
        return await self._pool.run(lambda raw: raw.execute(query, values).fetchall(), is_long=True)


class _Upload:
    """Implements Upload. `holder` are the owner, and when the upload is due."""

    def __init__(self, media: SqliteMedia, clock: Callable[[], int], holder: tuple[str, int]) -> None:
        self._media = media
        self._clock = clock
        self._holder = holder
        self._id: int | None = None

    async def begin(self, media_type: str) -> None:
        def begin(connection: sqlite3.Connection) -> None:
            self._id = schema.begin_arrival(connection, media_type, self._clock())

        await self._media.transact(begin)

    async def add(self, number: int, chunks: list[bytes]) -> None:
        def add(connection: sqlite3.Connection) -> bool:
            return self._id is not None and schema.add_chunks(connection, self._id, number, chunks, self._clock())

        if not await self._media.transact(add, size=PIECE_BYTES):
            raise given_up()

    async def finish(self, sha256: bytes) -> MediaStat:
        def finish(connection: sqlite3.Connection) -> MediaStat | None:
            return None if self._id is None else schema.finish_arrival(connection, self._id, sha256, self._holder)

        stat = await self._media.transact(finish)
        if stat is None:
            raise given_up()
        return stat

    def abandon(self) -> None:
        """The transaction that makes the file may still be in the queue, before this one."""

        def abandon(connection: sqlite3.Connection) -> None:
            if self._id is not None:
                schema.abandon_arrival(connection, self._id)

        with suppress(LogError):  # then it is deleted when it has got nothing for an hour
            self._media.transact(abandon).add_done_callback(mark_retrieved)
