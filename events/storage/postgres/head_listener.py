"""The head of a log that many nodes share, read on a connection of its own: when it is asked for, and now and then."""

import asyncio
from contextlib import suppress

import asyncpg

from events.errors import LogUnavailable
from events.integrity.hash_chain import GENESIS
from events.record import Head
from events.storage.group_commit import HeadNotifier
from events.storage.postgres.postgres_connection import (
    ANSWER_TIMEOUT_S,
    FAILURES,
    Database,
    DatabaseRewound,
    close_gracefully,
    read_head,
)
from events.storage.shared_refresh import SharedRefresh

POLL_S = 2.0  # between reads that nobody asked for

# With the digest that a known event has now: in another log it differs.
_HEAD_AND_KNOWN = """
SELECT position, digest, (SELECT digest FROM events WHERE position = $1)
  FROM events ORDER BY position DESC LIMIT 1
"""
_TABLE = "SELECT 'events'::regclass::oid"


async def server_process(connection: asyncpg.Connection) -> int:
    """The process of the server that serves `connection`. Raises what asyncpg raises."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        found: int = await connection.fetchval("SELECT pg_backend_pid()")
    return found


class HeadListener:
    """Keeps `head` up to date. `open` it, then `start` it; must be closed."""

    def __init__(self, database: Database) -> None:
        self.head = HeadNotifier(Head(0, GENESIS))
        self.damage: str | None = None
        self.table = 0  # the number of the log's table, once open
        self._database = database
        self._connection: asyncpg.Connection | None = None
        self._hint_received = asyncio.Event()
        self._hint = 0  # the latest position that was named to this process
        self._refresh = SharedRefresh(self._query_with_retry)
        self._run_task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect and read the head. Raises FAILURES."""
        connection = await self._connected()
        self.table = await connection.fetchval(_TABLE)
        self.head.advance(await read_head(connection))

    async def server_process(self) -> int:
        """The process of the server that serves this connection now. Raises FAILURES."""
        return await server_process(await self._connected())

    def start(self) -> None:
        """From now on wake the waiters when the head moves, whichever node moved it."""
        self._run_task = asyncio.create_task(self._run(), name="log-head")

    def advance(self, head: Head) -> None:
        """The log has reached `head`; ignored if an equal or later one is known."""
        if head.position > self.head.current.position:
            self.head.advance(head)

    def hint(self, position: int) -> None:
        """The log may have reached `position`: it is read if that is news."""
        if position > self.head.current.position:
            self._hint = position
            self._hint_received.set()

    def refresh(self) -> None:
        """Have the head read soon."""
        _ = self._refresh.request()

    async def latest(self) -> Head:
        """As EventLog.latest."""
        return await self._refresh.latest()

    async def close(self, reason: str) -> None:
        """Wake the waiters, and close the connection."""
        self.head.close(reason)
        if self._run_task is not None:
            self._run_task.cancel()
            await asyncio.wait([self._run_task])
        await self._refresh.close(reason)
        connection, self._connection = self._connection, None
        await close_gracefully(connection)

    async def _run(self) -> None:
        while True:
            self._hint = 0
            try:
                await self.latest()
            except LogUnavailable:  # the callers of the log get the error
                await asyncio.sleep(POLL_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wait_for_hint()

    async def _wait_for_hint(self) -> None:
        """Return once there is reason to read the head: another node's commit, or a connection that has ended."""
        while True:
            self._hint_received.clear()
            if self._hint > self.head.current.position or self._connection is None or self._connection.is_closed():
                return
            await self._hint_received.wait()
            await asyncio.sleep(0)  # the answer to a commit of our own may arrive just after its notification

    async def _query_with_retry(self) -> Head:
        self.advance(await self._database.retry(self._query_head))
        return self.head.current

    async def _query_head(self) -> Head:
        """Raises FAILURES, DatabaseRewound."""
        known = self.head.current  # before the query: the writer may learn of a later head meanwhile
        try:
            connection = await self._connected()
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                row = await connection.fetchrow(_HEAD_AND_KNOWN, known.position)
            if known.position and (row is None or row[2] != known.digest):
                raise DatabaseRewound(self._database.rewound_message(known.position))  # noqa: TRY301  caught below
        except DatabaseRewound as error:
            self.damage = str(error)
            raise
        except FAILURES:
            self._drop_connection()
            raise
        return Head(row[0], row[1]) if row else Head(0, GENESIS)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            connection = await self._database.connect()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._database.check_not_rewound(connection, self.head.current)
            except BaseException:
                connection.terminate()
                raise
            connection.add_termination_listener(self._on_connection_lost)
            self._connection = connection
        return self._connection

    def _on_connection_lost(self, _connection: object) -> None:
        self._hint_received.set()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
