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

from events.errors import LogUnavailable
from events.options import LogOptions
from events.storage.append_batch import BatchPlan, Outcome, PendingAppend, plan
from events.storage.sqlite.batched_connection import run_in_thread
from events.storage.sqlite.file_loss_detector import FileLoss
from events.storage.sqlite.head_poller import read_head
from events.storage.sqlite.notifier import Notifier
from events.storage.sqlite.sqlite_batch_store import CLASHES, ERASE, SqliteBatchStore, insertion, versions_of
from events.storage.sqlite.wal_checkpointer import WalCheckpointer
from events.storage.sqlite.write_lock import WriteLock


class SharedBatchStore(SqliteBatchStore):
    """Commits batches among others who do, and tells them."""

    def __init__(self, path: Path, options: LogOptions, notifier: Notifier) -> None:
        super().__init__(path, options)
        self._write_lock = WriteLock(path, options.busy_timeout_s)
        self._wal_checkpointer = WalCheckpointer(path, options, self._write_lock)
        self._notifier = notifier

    async def close(self) -> None:
        """As SqliteStore.close. The others may go on."""
        try:
            await super().close()
        finally:
            self._write_lock.close()

    async def _connect(self, *, create: bool) -> aiosqlite.Connection:
        """In turn: of several that find the file empty one makes it a log."""
        async with self._locked():
            return await super()._connect(create=create)

    async def _disconnect(self) -> None:
        """In turn: of two that let go at once neither would be the last, who removes the write-ahead log."""
        async with AsyncExitStack() as stack:
            with suppress(LogUnavailable):  # some process keeps it: let go all the same
                await stack.enter_async_context(self._locked())
            await super()._disconnect()

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        write_lock = self._write_lock.held()
        await asyncio.to_thread(write_lock.__enter__)
        try:
            yield
        finally:
            write_lock.__exit__(None, None, None)

    async def _commit_nothing(self, connection: aiosqlite.Connection) -> None:
        async with self._locked():
            await super()._commit_nothing(connection)

    async def _commit(self, connection: aiosqlite.Connection, batch: Sequence[PendingAppend]) -> list[Outcome]:
        if any(append.erases for append in batch):
            self.wal_clean.clear()
            self._retry_at_s = 0.0
        before = self.live.current.position
        planned, loss = await run_in_thread(connection, lambda raw: self._commit_locked(raw, batch))
        if planned.head.position > self.live.current.position:
            self.live.advance(planned.head)
        if planned.rows:
            self._notifier.notify()
        # What others have written since our last commit is counted by its rows: its size only they know.
        self._wal_checkpointer.note_growth(planned.head.position - before, sum(append.size for append in batch))
        await self._acknowledge(loss)
        return planned.outcomes

    def _commit_locked(
        self, connection: sqlite3.Connection, batch: Sequence[PendingAppend]
    ) -> tuple[BatchPlan, FileLoss | None]:
        """One transaction, in the connection's thread; then whether it is in a file that has a name."""
        with self._write_lock.held():
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
            return planned, self._files.find_loss()

    def _write_rows(self, connection: sqlite3.Connection, batch: Sequence[PendingAppend]) -> BatchPlan:
        head = read_head(connection)
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


def _insert(connection: sqlite3.Connection, planned: BatchPlan) -> None:
    if planned.rows:
        connection.execute(insertion(len(planned.rows)), list(chain.from_iterable(planned.rows)))
