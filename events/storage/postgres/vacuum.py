"""VACUUM after erasures: an UPDATE leaves the old version of each row in the table's pages until then.

VACUUM removes such versions from the pages once no transaction can see them any more. Places that may hold the bytes
even then: the free space of those pages until other rows use it (VACUUM FULL rewrites the table, which nothing may use
meanwhile), the write-ahead log until its segments are reused (a checkpoint or two), standbys until they have caught up,
archived segments, and backups.
"""

import asyncio
from collections.abc import Callable

import asyncpg

from events.backoff import backoff_delays
from events.errors import LogError, LogUnavailable
from events.storage.postgres.postgres_connection import FAILURES, RETRY_S, Database, close_gracefully, explain
from events.storage.postgres.postgres_media_schema import HAS_UNUSED, NAMES, delete_unused

# Of this database: transactions, prepared ones and standbys that may still see what was there at transaction $1.
SEEN_BY = """
SELECT count(*) FROM (
    SELECT backend_xid AS seen FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    UNION ALL
    SELECT backend_xmin FROM pg_stat_activity
     WHERE (datname = current_database() OR datname IS NULL) AND pid <> pg_backend_pid() -- NULL: a standby's walsender
    UNION ALL SELECT xmin FROM pg_replication_slots
    UNION ALL SELECT transaction FROM pg_prepared_xacts WHERE database = current_database()
) AS transactions WHERE age(seen) > age($1::text::xid)
"""
_STILL_SEEN = (
    "a transaction that is older than the erasure is still open (pg_stat_activity, pg_prepared_xacts), or a standby"
    " still sees what was erased (pg_replication_slots, hot_standby_feedback): VACUUM waits for it"
)
NOW = "SELECT pg_current_xact_id()::xid::text"
_DEAD = "SELECT pg_stat_get_dead_tuples('events'::regclass) > 0"
# Without TRUNCATE: the end of `events` is never empty, and cutting a table would lock readers out.
_VACUUM = f"VACUUM (TRUNCATE FALSE) events, {', '.join(NAMES)}"


class VacuumSkipped(LogUnavailable):
    """The server has skipped the table, and said so in a warning."""


async def vacuum(connection: asyncpg.Connection) -> None:
    """Remove old versions of rows from the pages. Raises FAILURES, VacuumSkipped."""
    warnings: list[str] = []

    def note(_connection: object, message: asyncpg.PostgresLogMessage) -> None:
        if message.severity_en == "WARNING":
            warnings.append(message.message)

    connection.add_log_listener(note)
    try:
        await connection.execute(_VACUUM)
    finally:
        connection.remove_log_listener(note)
    if warnings:
        raise VacuumSkipped(f"VACUUM: {warnings[0]}: let this program's role own the tables events, {', '.join(NAMES)}")


class Vacuum:
    """One task that deletes unused files and vacuums after erasures; erasures during a run share the next one. `clean`
    is not set while old versions of rows may hold erased content. `warn` is called with the reason when a run fails,
    once for each reason.
    """

    def __init__(self, database: Database, warn: Callable[[str], None]) -> None:
        self.clean = asyncio.Event()
        self.clean.set()
        self._database = database
        self._warn = warn
        self._reason: str | None = None
        self._requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, connection: asyncpg.Connection) -> None:
        """Begin with the old versions that a crashed node has left. Raises FAILURES."""
        if await connection.fetchval(_DEAD) or await connection.fetchval(HAS_UNUSED):
            self.request()
        self._task = asyncio.create_task(self._run(), name="log-vacuum")

    def request(self) -> None:
        """Something was erased just now."""
        self.clean.clear()
        self._requested.set()

    async def close(self) -> None:
        """Stop; the next start, or autovacuum, does what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await self._requested.wait()
            self._requested.clear()
            for pause_s in backoff_delays(*RETRY_S):
                try:
                    await self._vacuum()
                    self._reason = None
                    break
                except (*FAILURES, LogError) as error:
                    self._warn_once(str(error) if isinstance(error, LogError) else explain(error, self._database.label))
                await asyncio.sleep(pause_s)
            if not self._requested.is_set():
                self.clean.set()

    def _warn_once(self, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            self._warn(reason)

    async def _vacuum(self) -> None:
        """Raises FAILURES, LogError."""
        connection = await self._database.connect(statement_timeout="0", lock_timeout="0")
        try:
            while await delete_unused(connection):
                pass
            now = await connection.fetchval(NOW)
            waited_s = 0.0
            for pause_s in backoff_delays(*RETRY_S):
                if not await connection.fetchval(SEEN_BY, now):
                    break
                if waited_s >= self._database.options.erase_wait_s:
                    self._warn_once(_STILL_SEEN)
                await asyncio.sleep(pause_s)
                waited_s += pause_s
            await vacuum(connection)
        finally:
            await close_gracefully(connection)
