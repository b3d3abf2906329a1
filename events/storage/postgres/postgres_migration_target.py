"""The migration of a log into a PostgreSQL database, by COPY. Implements events.transfer.migration.MigrationTarget.

Files are received from the other log before the events that refer to them.
"""

import time
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg

from events.errors import LogUnusable, MigrationRefused
from events.integrity.hash_chain import GENESIS
from events.media import COPY_HOLDER, MediaDamaged, MediaStat, MediaTooLarge
from events.options import LogOptions
from events.record import Columns, Head
from events.storage.erasure_rules import ERASE_ALL_EXPLAINED, without_erased
from events.storage.incomplete_log import WritingCommand
from events.storage.media_references import references_in
from events.storage.media_upload import run_upload
from events.storage.postgres.append_procedure import ERASE, LOCK
from events.storage.postgres.postgres_connection import FAILURES, Database, close_gracefully, read_head, unavailable
from events.storage.postgres.postgres_media import PostgresUpload, Statements
from events.storage.postgres.postgres_media_schema import add_references, delete_unused
from events.storage.postgres.postgres_schema import COLUMNS, create, mark
from events.storage.postgres.vacuum import vacuum

T = TypeVar("T")

# The server ends the transaction of a client that freezes between two statements: nodes would wait for its lock.
IDLE_MS = 5_000
PAGE_MS = 60_000  # for a page of big rows on a slow disk

NEVER_US = 2**63 - 1  # an interrupted command goes on whenever it is run again
_FOUND = "SELECT sha256 FROM media WHERE sha256 = ANY($1::bytea[])"
_RELEASE = "DELETE FROM media_references WHERE position = 0 AND holder = $1"
_GIVE_UP = "UPDATE media SET is_unused = true WHERE sha256 IS NULL AND NOT is_unused"

_NOTHING = "UPDATE 0"
_NOTIFY = "SELECT pg_notify('events_' || 'events'::regclass::oid, $1)"


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


class PostgresMigrationTarget:
    """A log that is copied into. Made by `open`; must be closed."""

    def __init__(self, database: Database, connection: asyncpg.Connection) -> None:
        self.head = Head(0, GENESIS)
        self._database = database
        self._connection = connection
        self._media = PostgresMediaCopy(connection)
        self._erased = False  # some content, or a file

    @classmethod
    async def open(cls, url: str) -> "PostgresMigrationTarget":
        """Connect, and create the table if missing. Raises LogUnusable."""
        database = Database(url, LogOptions())
        try:
            connection = await database.connect(
                statement_timeout=str(PAGE_MS), idle_in_transaction_session_timeout=str(IDLE_MS)
            )
            target = cls(database, connection)
            try:
                await create(connection, database.label, WritingCommand.MIGRATE)
                target.head = await read_head(connection)
            except BaseException:
                await target.close()
                raise
        except FAILURES as error:
            refusal = unavailable(error, database.label)
            raise LogUnusable(str(refusal), remedy=refusal.remedy) from error
        return target

    async def missing_media(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """As FileTarget.missing_media."""
        return await self._handle_errors(self._media.missing(digests))

    async def add_media(self, stat: MediaStat, pieces: AsyncIterator[bytes]) -> None:
        """As FileTarget.add_media."""
        await self._handle_errors(self._connection.execute(mark(WritingCommand.MIGRATE)))
        await self._handle_errors(self._media.add(stat, pieces))

    async def add(self, rows: Sequence[Columns]) -> None:
        """As MigrationTarget.add. Nodes may serve other logs of the database, but not this one."""
        connection, (written, erasures) = self._connection, without_erased(rows)
        try:
            async with connection.transaction():
                await connection.execute(LOCK)
                if await read_head(connection) != self.head:
                    raise MigrationRefused(f"database {self._database.label}: something else appends to it")
                await connection.execute(mark(WritingCommand.MIGRATE))
                await connection.copy_records_to_table("events", records=written, columns=COLUMNS)
                await add_references(connection, references_in(written))
                for erasure in erasures:
                    done = await connection.execute(ERASE, *erasure)
                    self._erased = self._erased or done != _NOTHING
                await connection.execute(_NOTIFY, str(rows[-1][0]))
        except FAILURES as error:
            raise unavailable(error, self._database.label) from error
        self.head = Head(rows[-1][0], rows[-1][10])

    async def finish_erasures(self) -> None:
        """As MigrationTarget.finish_erasures. In one statement, however long it takes."""
        try:
            async with self._connection.transaction():
                await self._connection.execute("SET LOCAL statement_timeout = 0")
                self._erased = await self._connection.execute(ERASE_ALL_EXPLAINED) != _NOTHING
        except FAILURES as error:
            raise unavailable(error, self._database.label) from error

    async def finish(self) -> None:
        """As MigrationTarget.finish."""
        self._erased = await self._handle_errors(self._media.finish()) or self._erased
        await self._handle_errors(self._connection.execute(mark(None)))

    async def close(self) -> None:
        """As MigrationTarget.close. Removes old versions of erased rows."""
        try:
            if self._erased:
                await self._connection.execute("SET statement_timeout = 0")
                await vacuum(self._connection)
        except FAILURES as error:
            raise unavailable(error, self._database.label) from error
        finally:
            await close_gracefully(self._connection)

    async def _handle_errors(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises LogUnavailable in place of FAILURES."""
        try:
            return await work
        except FAILURES as error:
            raise unavailable(error, self._database.label) from error
