"""Files that a log in PostgreSQL receives from another one, before the events that refer to them."""

import time
from collections.abc import AsyncIterator, Collection

import asyncpg

from events.media import COPY_HOLDER, MediaDamaged, MediaStat, MediaTooLarge
from events.storage.media_upload import run_upload
from events.storage.postgres.postgres_media import PostgresUpload, Statements, T
from events.storage.postgres.postgres_media_schema import delete_unused

NEVER_US = 2**63 - 1  # an interrupted command goes on whenever it is run again
_FOUND = "SELECT sha256 FROM media WHERE sha256 = ANY($1::bytea[])"
_RELEASE = "DELETE FROM media_references WHERE position = 0 AND holder = $1"
_GIVE_UP = "UPDATE media SET is_unused = true WHERE sha256 IS NULL AND NOT is_unused"


class PostgresMediaCopy:
    """Each file is held by an upload of nobody's, until `finish`. For a log that nothing else writes. Methods raise
    FAILURES.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def missing(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """Those of `digests`, SHA-256 of files, that the log does not have."""
        found = {digest for (digest,) in await self._connection.fetch(_FOUND, list(digests))}
        return frozenset(digests) - found

    async def add(self, stat: MediaStat, pieces: AsyncIterator[bytes]) -> None:
        """Keep the file. Raises MediaDamaged where `pieces` are not its bytes, and what they raise."""
        try:
            await run_upload(_Copy(self, stat), stat.media_type, pieces, stat.bytes)
        except (MediaTooLarge, ValueError) as error:  # what is known of it does not fit its bytes
            raise MediaDamaged(stat.sha256) from error

    async def finish(self) -> bool:
        """Keep only files that events refer to, and what others have uploaded; delete the bytes of all others. Whether
        there were any.
        """

        async def release(connection: asyncpg.Connection) -> None:
            await connection.execute(_RELEASE, COPY_HOLDER)
            await connection.execute(_GIVE_UP)  # of an interrupted run

        await self.transact(release)
        has_deleted = False
        while await delete_unused(self._connection):
            has_deleted = True
        return has_deleted

    async def transact(self, statements: Statements[T]) -> T:
        """The result of `statements`, in one transaction."""
        async with self._connection.transaction():
            return await statements(self._connection)


class _Copy(PostgresUpload):
    def __init__(self, copy: PostgresMediaCopy, stat: MediaStat) -> None:
        super().__init__(copy, lambda: time.time_ns() // 1000, (COPY_HOLDER, NEVER_US))
        self._stat = stat

    async def finish(self, sha256: bytes) -> MediaStat:
        if sha256.hex() != self._stat.sha256:
            raise MediaDamaged(self._stat.sha256)
        return await super().finish(sha256)

    def abandon(self) -> None:
        """`PostgresMediaCopy.finish` deletes it."""
