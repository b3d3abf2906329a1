"""The head of a log that many nodes share: one connection that hears of their commits, and asks for the head."""

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
    backoff_delays,
    close_gracefully,
    explain,
    is_passing,
)

POLL_S = 2.0  # between looks that nothing asked for: a net below notifications, which a lost connection may swallow

HEAD = "SELECT position, digest FROM events ORDER BY position DESC LIMIT 1"
# With the digest that an event known from before has now: of another log it has another one.
_HEAD_AND_KNOWN = """
SELECT position, digest, (SELECT digest FROM events WHERE position = $1)
  FROM events ORDER BY position DESC LIMIT 1
"""
_TABLE = "SELECT 'events'::regclass::oid"


async def read_head(connection: asyncpg.Connection) -> Head:
    """The end of the log now. Raises what asyncpg raises."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        row = await connection.fetchrow(HEAD)
    return Head(*row) if row else Head(0, GENESIS)


async def server_process(connection: asyncpg.Connection) -> int:
    """The server's process that has answered this question. Raises what asyncpg raises."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        found: int = await connection.fetchval("SELECT pg_backend_pid()")
    return found


class HeadListener:
    """Keeps `live` up to date. `open` it, then `watch` it; close it in the end."""

    def __init__(self, database: Database, *, listens: bool = True) -> None:
        self.live = HeadNotifier(Head(0, GENESIS))
        self.damage: str | None = None
        self.table = 0  # the number of the log's table, once open
        self._database = database
        self._listens = listens  # a standby refuses LISTEN
        self._connection: asyncpg.Connection | None = None
        self._hint_received = asyncio.Event()
        self._hint = 0  # where others say that the log is
        self._closed: str | None = None
        self._running_query: asyncio.Task[Head] | None = None
        self._next_query: asyncio.Task[Head] | None = None
        self._run_task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect and read the head. Raises FAILURES."""
        connection = await self._connected()
        self.table = await connection.fetchval(_TABLE)
        self.live.advance(await read_head(connection))

    async def server_process(self) -> int:
        """Which process of the server has answered now. Raises FAILURES."""
        return await server_process(await self._connected())

    def start(self) -> None:
        """From now on wake who waits when the head moves, whoever moved it."""
        self._run_task = asyncio.create_task(self._run(), name="log-head")

    def advance(self, head: Head) -> None:
        """The log has reached `head`; what is known already is passed over."""
        if head.position > self.live.current.position:
            self.live.advance(head)

    async def latest(self) -> Head:
        """The head at some moment after this call began. Raises LogUnavailable.

        All who ask meanwhile share a question. One that is under way may have been answered before they asked: they
        share the next one.
        """
        if self._closed is not None:
            raise LogUnavailable(self._closed)
        asked = self._next_query
        if asked is None:
            asked = self._next_query = asyncio.create_task(self._query_after(self._running_query), name="log-latest")
            asked.add_done_callback(_mark_retrieved)
        await asyncio.wait([asked])
        if asked.cancelled():
            raise LogUnavailable(self._closed or "the log is closed")
        return asked.result()

    async def close(self, reason: str) -> None:
        """Wake who waits, and let go of the connection."""
        self._closed = reason
        self.live.close(reason)
        tasks = [task for task in (self._run_task, self._running_query, self._next_query) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        connection, self._connection = self._connection, None
        await close_gracefully(connection)

    async def _run(self) -> None:
        while True:
            self._hint = 0
            try:
                await self.latest()
            except LogUnavailable:  # told to who asks
                await asyncio.sleep(POLL_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wait_for_hint()

    async def _wait_for_hint(self) -> None:
        """Return once there is reason to ask: another's commit, or a connection that has ended."""
        while True:
            self._hint_received.clear()
            if self._hint > self.live.current.position or self._connection is None or self._connection.is_closed():
                return
            await self._hint_received.wait()
            await asyncio.sleep(0)  # the answer to a commit of our own may come just behind its notification

    async def _query_after(self, before: asyncio.Task[Head] | None) -> Head:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._running_query, self._next_query = asyncio.current_task(), None
        return await self._query_with_retry()

    async def _query_with_retry(self) -> Head:
        deadline_s = asyncio.get_running_loop().time() + self._database.options.busy_timeout_s
        for pause_s in backoff_delays():
            try:
                head = await self._query_head()
            except DatabaseRewound as error:
                self.damage = str(error)
                raise
            except FAILURES as error:
                self._drop_connection()
                if not is_passing(error) or asyncio.get_running_loop().time() + pause_s > deadline_s:
                    raise LogUnavailable(explain(error, self._database.label)) from error
                await asyncio.sleep(pause_s)
            else:
                break
        self.advance(head)
        return self.live.current

    async def _query_head(self) -> Head:
        known = self.live.current  # before the question: the writer may learn of a later head meanwhile
        connection = await self._connected()
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            row = await connection.fetchrow(_HEAD_AND_KNOWN, known.position)
        if known.position and (row is None or row[2] != known.digest):
            raise DatabaseRewound(self._database.rewound_message(known.position))
        return Head(row[0], row[1]) if row else Head(0, GENESIS)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            connection = await self._database.connect()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._database.check_not_rewound(connection, self.live.current)
                    if self._listens:
                        table = await connection.fetchval(_TABLE)
                        await connection.add_listener(f"events_{table}", self._on_notification)
            except BaseException:
                connection.terminate()
                raise
            connection.add_termination_listener(self._on_connection_lost)
            self._connection = connection
        return self._connection

    def _on_notification(self, _connection: object, _pid: int, _channel: str, position: str) -> None:
        """A hint that the log may have moved: anybody may notify, so the log itself is asked."""
        if position.isdecimal() and int(position) > self.live.current.position:
            self._hint = int(position)
            self._hint_received.set()

    def _on_connection_lost(self, _connection: object) -> None:
        self._hint_received.set()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _mark_retrieved(task: asyncio.Task[Head]) -> None:
    """Whoever asked may have left: an answer that nobody takes is no fault."""
    if not task.cancelled():
        task.exception()
