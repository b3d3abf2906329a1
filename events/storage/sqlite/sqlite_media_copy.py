"""Files that a log receives from another one, before the events that refer to them. For the only user of the file."""

import sqlite3
import time
from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import TypeVar

import aiosqlite

from events.media import COPY_HOLDER, MediaDamaged, MediaStat, MediaTooLarge
from events.storage.media_upload import run_upload
from events.storage.sqlite import sqlite_media_schema as schema
from events.storage.sqlite.batched_connection import Call, run_in_thread
from events.storage.sqlite.sqlite_schema import commit

T = TypeVar("T")

NEVER_US = 2**63 - 1  # an interrupted command goes on whenever it is run again
CHECKPOINT_BYTES = 64 * 2**20  # of files: keeps the write-ahead log about as short
_RELEASE = "DELETE FROM media_references WHERE position = 0 AND holder = ?"
_GIVE_UP = "UPDATE media SET is_unused = 1 WHERE sha256 IS NULL AND is_unused = 0"


class SqliteMediaCopy:
    """Each file is held by an upload of nobody's, until `finish`. Methods raise sqlite3.Error."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._since_checkpoint = 0  # bytes of files that were added

    async def missing(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """Those of `digests`, SHA-256 of files, that the log does not have."""
        return await run_in_thread(self._connection, partial(schema.find_missing, digests))

    async def add(self, stat: MediaStat, pieces: AsyncIterator[bytes]) -> None:
        """Keep the file. Raises MediaDamaged where `pieces` are not its bytes, and what they raise."""
        try:
            await run_upload(_Copy(self._connection, stat), stat.media_type, pieces, stat.bytes)
        except (MediaTooLarge, ValueError) as error:  # what is known of it does not fit its bytes
            raise MediaDamaged(stat.sha256) from error
        self._since_checkpoint += stat.bytes
        if self._since_checkpoint >= CHECKPOINT_BYTES:
            self._since_checkpoint = 0
            await self._connection.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")

    async def finish(self) -> None:
        """Keep only files that events refer to, and what others have uploaded; delete the bytes of all others."""

        def release(raw: sqlite3.Connection) -> None:
            raw.execute(_RELEASE, (COPY_HOLDER,))
            raw.execute(_GIVE_UP)  # of an interrupted run: nothing else arrives while the log is locked

        await commit(self._connection, release)
        while await commit(self._connection, schema.delete_unused):
            pass


class _Copy:
    """Implements Upload."""

    def __init__(self, connection: aiosqlite.Connection, stat: MediaStat) -> None:
        self._connection = connection
        self._stat = stat
        self._id = 0

    async def begin(self, media_type: str) -> None:
        self._id = await self._commit(partial(schema.begin_arrival, media_type=media_type, now_us=_now_us()))

    async def add(self, number: int, chunks: list[bytes]) -> None:
        await self._commit(
            partial(schema.add_chunks, media_id=self._id, number=number, chunks=chunks, now_us=_now_us())
        )

    async def finish(self, sha256: bytes) -> MediaStat:
        if sha256.hex() != self._stat.sha256:
            raise MediaDamaged(self._stat.sha256)
        upload = (COPY_HOLDER, NEVER_US)
        await self._commit(partial(schema.finish_arrival, media_id=self._id, sha256=sha256, upload=upload))
        return self._stat

    def abandon(self) -> None:
        """`SqliteMediaCopy.finish` deletes it."""

    async def _commit(self, call: Call[T]) -> T:
        return await commit(self._connection, call)


def _now_us() -> int:
    return time.time_ns() // 1000
