"""The files of a SQLite log. Implements events.media.MediaStore.

The writer's task writes them, a few chunks between two batches of appends; they are read as events are.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from events.errors import LogError, LogUnavailable
from events.media import MediaStat
from events.storage.group_commit import GroupCommit
from events.storage.media_upload import PIECE_BYTES, given_up, mark_retrieved, run_upload
from events.storage.sqlite import sqlite_media_schema as schema
from events.storage.sqlite.batched_connection import Call
from events.storage.sqlite.sqlite_batch_store import SqliteBatchStore
from events.storage.sqlite.sqlite_media_reader import SqliteMediaReader
from events.storage.sqlite.sqlite_read_pool import SqliteReadPool

T = TypeVar("T")

UPLOADED = (
    "SELECT coalesce(sum(m.bytes), 0) FROM media_references AS r JOIN media AS m ON m.id = r.media_id"
    " WHERE r.holder = ? AND r.position = 0 AND r.due_at > ? AND NOT EXISTS"
    " (SELECT 1 FROM media_references AS used WHERE used.media_id = r.media_id AND used.position > 0)"
)


class SqliteMedia(SqliteMediaReader):
    """`write_side` is None for a log that is only read. `clock` gives microseconds, UTC."""

    def __init__(
        self,
        pool: SqliteReadPool,
        clock: Callable[[], int],
        write_side: tuple[GroupCommit, SqliteBatchStore] | None,
        erase_wait_s: float,
    ) -> None:
        super().__init__(partial(pool.run, is_long=True), has_tables=write_side is not None)
        self._pool = pool
        self._clock = clock
        self._write_side = write_side
        self._erase_wait_s = erase_wait_s

    async def put(
        self, media_type: str, chunks: AsyncIterator[bytes], *, holder: str, due_at_us: int, bytes_max: int
    ) -> MediaStat:
        """As MediaStore.put. Raises LogBusy when too many pieces wait."""
        upload = _Upload(self, self._clock, (holder, due_at_us))
        return await run_upload(upload, media_type, chunks, bytes_max)

    async def unused_bytes(self, holder: str) -> int:
        """As MediaStore.unused_bytes."""
        return sum(size for (size,) in await self.fetch(UPLOADED, (holder, self._clock())))

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
