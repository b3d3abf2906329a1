"""A connection to the server that a process keeps for its part in the projections: one statement at a time.

The right to fold belongs to the session on the server, as an advisory lock. So a process that loses the connection
cannot write any more, whatever it believes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import asyncpg

from events.storage.postgres.postgres_connection import ANSWER_TIMEOUT_S, FAILURES, Database, close_gracefully

Listener = Callable[[str], None]


class Statements:
    """A connection while it is this task's alone. Any lost answer loses the connection, and so what it had locked."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        """The rows of a query. Raises FAILURES."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                rows: list[Any] = await self._connection.fetch(query, *values)
        except asyncpg.PostgresError:
            raise  # the server's own answer
        except BaseException:
            self._connection.terminate()
            raise
        return rows

    async def execute(self, script: str) -> None:
        """Statements without parameters, in one transaction. Raises FAILURES."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._connection.execute(script)
        except asyncpg.PostgresError:
            raise
        except BaseException:
            self._connection.terminate()
            raise

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        await self.execute("BEGIN")
        try:
            yield
            await self.execute("COMMIT")
        except BaseException:
            with suppress(*FAILURES):
                await self.execute("ROLLBACK")
            raise

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """What is done in it is committed at its end, or not at all. Raises FAILURES."""
        return self._transaction()


class ServerSession:
    """Made by `open`; never connects again: what it had locked would be lost without a word."""

    def __init__(self, connection: asyncpg.Connection, on_lost: Callable[[], None]) -> None:
        self._connection = connection
        self._lost = on_lost
        self._turn = asyncio.Lock()
        connection.add_termination_listener(self._on_lost)

    @classmethod
    async def open(cls, database: Database, on_lost: Callable[[], None] = lambda: None) -> "ServerSession":
        """Commits do not wait for the disk: what a crash takes is folded again. Raises FAILURES, LogUnusable."""
        return cls(await database.connect(synchronous_commit="off"), on_lost)

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended."""
        return bool(self._connection.is_closed())

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Statements]:
        """The connection, once no other task uses it."""
        async with self._turn:
            yield Statements(self._connection)

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        """The rows of one query. Raises FAILURES."""
        async with self.statements() as statements:
            return await statements.fetch(query, *values)

    async def listen(self, channel: str, listener: Listener) -> None:
        """Have `listener` called with what is said on `channel`. Raises FAILURES."""
        async with self._turn, asyncio.timeout(ANSWER_TIMEOUT_S):
            await self._connection.add_listener(channel, lambda _connection, _pid, _channel, said: listener(said))

    async def unlisten_all(self) -> None:
        """Raises FAILURES."""
        async with self._turn, asyncio.timeout(ANSWER_TIMEOUT_S):
            await self._connection.reset_listeners()

    def abandon(self) -> None:
        """End the connection at once: what is under way on it fails."""
        self._connection.terminate()
        self._lost()

    async def close(self) -> None:
        """Release whatever it holds."""
        await close_gracefully(self._connection)

    def _on_lost(self, _connection: object) -> None:
        self._lost()
