"""The write side of a SQLite log to which several processes of one machine append.

What SqliteStore believes of the file between two commits, this one looks at inside each transaction: the head, and
the streams' versions where its callers were wrong. All of it is one hop to the connection's thread.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from pathlib import Path

import aiosqlite

from events.batch import Outcome, Pending, Plan, plan
from events.errors import LogUnavailable
from events.file_watch import Loss
from events.options import LogOptions
from events.shared_head import last_head
from events.shared_hop import hop
from events.sqlite_store import CLASHES, ERASE, SqliteStore, insertion, versions_of
from events.turn import Turn
from events.wakeups import Wakeups
from events.write_ahead import WriteAhead


class SharedStore(SqliteStore):
    """Commits batches among others who do, and tells them."""

    def __init__(self, path: Path, options: LogOptions, wakeups: Wakeups) -> None:
        super().__init__(path, options)
        self._turn = Turn(path, options.busy_timeout_s)
        self._write_ahead = WriteAhead(path, options, self._turn)
        self._wakeups = wakeups

    async def close(self) -> None:
        """As SqliteStore.close. The others may go on."""
        try:
            await super().close()
        finally:
            self._turn.close()

    async def _connect(self, *, create: bool) -> aiosqlite.Connection:
        """In turn: of several that find the file empty one makes it a log."""
        async with self._own_turn():
            return await super()._connect(create=create)

    async def _disconnect(self) -> None:
        """In turn: of two that let go at once neither would be the last, who removes the write-ahead log."""
        async with AsyncExitStack() as stack:
            with suppress(LogUnavailable):  # some process keeps it: let go all the same
                await stack.enter_async_context(self._own_turn())
            await super()._disconnect()

    @asynccontextmanager
    async def _own_turn(self) -> AsyncIterator[None]:
        turn = self._turn.taken()
        await asyncio.to_thread(turn.__enter__)
        try:
            yield
        finally:
            turn.__exit__(None, None, None)

    async def _commit_nothing(self, connection: aiosqlite.Connection) -> None:
        async with self._own_turn():
            await super()._commit_nothing(connection)

    async def _commit(self, connection: aiosqlite.Connection, batch: Sequence[Pending]) -> list[Outcome]:
        if any(append.erases for append in batch):
            self.wal_clean.clear()
            self._retry_at_s = 0.0
        before = self.live.current.position
        planned, loss = await hop(connection, lambda raw: self._in_turn(raw, batch))
        if planned.head.position > self.live.current.position:
            self.live.advance(planned.head)
        if planned.rows:
            self._wakeups.tell()
        # What others have written since our last commit is counted by its rows: its size only they know.
        self._write_ahead.grew(planned.head.position - before, sum(append.size for append in batch))
        await self._committed(loss)
        return planned.outcomes

    def _in_turn(self, connection: sqlite3.Connection, batch: Sequence[Pending]) -> tuple[Plan, Loss | None]:
        """One transaction, in the connection's thread; then whether it is in a file that has a name."""
        with self._turn.taken():
            self._size.check(connection)
            connection.execute("BEGIN IMMEDIATE")
            try:
                planned = self._write_rows(connection, batch)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has rolled it back already
                    connection.execute("ROLLBACK")
                raise
            self._size.note()
            return planned, self._files.look()

    def _write_rows(self, connection: sqlite3.Connection, batch: Sequence[Pending]) -> Plan:
        head = last_head(connection)
        if head.position < self.live.current.position:
            raise LogUnavailable(f"database {self._path} has lost events that were recorded: stop and restore a copy")
        planned = plan(batch, head, {})  # believe the callers, who are nearly always right
        try:
            _insert(connection, planned)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname not in CLASHES:
                raise
            streams = list({append.stream_id for append in batch})
            planned = plan(batch, head, dict(connection.execute(versions_of(len(streams)), streams).fetchall()))
            _insert(connection, planned)
        for erasure in planned.erasures:
            connection.execute(ERASE, erasure)
        return planned


def _insert(connection: sqlite3.Connection, planned: Plan) -> None:
    if planned.rows:
        connection.execute(insertion(len(planned.rows)), list(chain.from_iterable(planned.rows)))
