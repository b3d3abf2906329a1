"""The registry of the processes that serve a log in PostgreSQL: a small table, in which each keeps a row as a lease.

A row has the process's name, its version and what it can read. It is renewed by the server's clock; the process of a
row that was not renewed for `STALE_S` is gone. events/compatibility.py needs it for rolling upgrades.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import asyncpg

from events.compatibility import NodeVersion, decode_version, encode_version
from events.errors import LogError, LogUnavailable
from events.storage.postgres.postgres_connection import CLOSE_TIMEOUT_S
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from events.storage.postgres.stream_holders import FOLLOWS, HEARS, OLD_NODES
from events.storage.postgres.stream_holders import NAME as HOLDERS

RENEW_S = 20.0  # between renewals
STALE_S = 90.0  # four renewals missed: the process is gone, or has been frozen or cut off for as long
FORGET_S = 86_400.0  # then the next process that registers removes its row
NODES_MAX = 10_000  # rows that are read: a bound where none is expected to be reached

_REGISTER = f"""
WITH added AS (INSERT INTO events_nodes (version) VALUES ($1) RETURNING id)
INSERT INTO {HOLDERS} SELECT '{HEARS}', id FROM added RETURNING node
"""  # noqa: S608  constants
_RENEW = """
INSERT INTO events_nodes (id, version) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET seen_at = now() RETURNING id
"""
_FORGET = f"DELETE FROM events_nodes WHERE seen_at < now() - interval '{FORGET_S} seconds'"  # noqa: S608  constants
_PRESENT = f"SELECT version FROM events_nodes WHERE seen_at > now() - interval '{STALE_S} seconds' LIMIT {NODES_MAX}"  # noqa: S608  constants
_LEAVE = f"WITH gone AS (DELETE FROM {HOLDERS} WHERE node = $1) DELETE FROM events_nodes WHERE id = $1 RETURNING id"  # noqa: S608  constants
# A process that holds nothing, not even what all do, is one of version 0.8, or has just met a crash of the server.
_TELL_OLD = f"""
WITH old AS (
    SELECT FROM events_nodes WHERE seen_at > now() - interval '{STALE_S} seconds'
       AND NOT EXISTS (SELECT FROM {HOLDERS} WHERE stream_id = '{HEARS}' AND node = id)
), gone AS (
    DELETE FROM {HOLDERS} WHERE stream_id = '{FOLLOWS}' AND node = '{OLD_NODES}' AND NOT EXISTS (SELECT FROM old)
)
INSERT INTO {HOLDERS} SELECT '{FOLLOWS}', '{OLD_NODES}' WHERE EXISTS (SELECT FROM old) ON CONFLICT DO NOTHING
"""  # noqa: S608  constants
_CLEAN = f"""
DELETE FROM {HOLDERS} WHERE node <> '{OLD_NODES}' AND NOT EXISTS (
    SELECT FROM events_nodes WHERE id = node AND seen_at > now() - interval '{STALE_S} seconds')
"""  # noqa: S608  constants


class NodeRegistry:
    """This process's row, and the others'. Implements events.compatibility.OtherNodes."""

    def __init__(self, pool: PostgresReadPool, own: NodeVersion) -> None:
        self._pool = pool
        self._own = encode_version(own)
        self.node = UUID(OLD_NODES)  # the row's id once it is registered, drawn by the server
        self._renewing: asyncio.Task[None] | None = None

    async def register(self, connection: asyncpg.Connection) -> None:
        """Before the log is read: from then on the other processes see this one. Raises FAILURES."""
        await connection.execute(_FORGET)
        self.node = await connection.fetchval(_REGISTER, self._own)
        await connection.execute(_TELL_OLD)

    def start(self) -> None:
        """Renew the row from now on."""
        self._renewing = asyncio.create_task(self._renew(), name="log-registration")

    async def versions(self) -> Sequence[NodeVersion]:
        """As OtherNodes.versions."""
        rows = await self._pool.fetch(_PRESENT)
        try:
            found = [decode_version(row[0]) for row in rows]
        except ValueError as error:
            raise LogUnavailable(f"the table events_nodes holds a row that is no node's: {error}") from error
        return sorted(found, key=lambda node: node.name)

    async def close(self) -> None:
        """Remove the row; where the server is gone, it becomes stale."""
        if self._renewing is None:
            return
        self._renewing.cancel()
        await asyncio.wait([self._renewing])
        with suppress(LogError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._pool.fetch(_LEAVE, self.node)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with suppress(LogError):  # as reads and appends report, too; the next round tries again
                await self._pool.fetch(_RENEW, self.node, self._own)
                await self._pool.fetch(_CLEAN)
                await self._pool.fetch(_TELL_OLD)
