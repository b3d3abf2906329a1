"""The write side of a SQLite log to which several processes of one machine append.

What SqliteBatchStore remembers between two commits, this store reads inside each transaction: the head, and the
streams' versions where its callers were wrong. All of it is one call in the connection's thread.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import aiosqlite

from events.errors import LogUnavailable
from events.options import LogOptions
from events.storage.append_batch import BatchPlan, Outcome, PendingAppend, depended_streams, plan
from events.storage.incomplete_log import WritingCommand
from events.storage.sqlite.batched_connection import Call, run_in_thread
from events.storage.sqlite.notifier import Notifier
from events.storage.sqlite.sqlite_batch_store import CONFLICTS, NOTHING, SqliteBatchStore
from events.storage.sqlite.sqlite_media_schema import consume_uploads, find_missing
from events.storage.sqlite.sqlite_schema import erase_content, insert_rows, read_head, read_versions, transaction
from events.storage.sqlite.wal import FileLoss, WalCheckpointer
from events.storage.sqlite.write_lock import WriteLock

T = TypeVar("T")


class SharedBatchStore(SqliteBatchStore):
    """Commits batches under the write lock of all processes, and notifies the others."""

    def __init__(
        self, path: Path, options: LogOptions, notifier: Notifier, command: WritingCommand | None = None
    ) -> None:
        super().__init__(path, options, command)
        self._write_lock = WriteLock(path, options.busy_timeout_s)
        self._wal_checkpointer = WalCheckpointer(options, self._connect_checkpointer, self._write_lock)
        self._notifier = notifier

    async def close(self) -> None:
        """As SqliteBatchStore.close. The other processes may go on."""
        try:
            await super().close()
        finally:
            self._write_lock.close()

    async def _connect(self, *, create: bool) -> aiosqlite.Connection:
        """Under the lock: of several processes that find the file empty one creates the log."""
        async with self._locked():
            return await super()._connect(create=create)

    async def _disconnect(self) -> None:
        """Under the lock: of two processes that close at the same time neither would be the last, which removes the
        write-ahead log.
        """
        async with AsyncExitStack() as stack:
            with suppress(LogUnavailable):  # some process keeps the lock: close all the same
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
        if any(append.removes_content for append in batch):
            await self.delete_unused_media()
        before = self.head.current.position
        planned, loss = await run_in_thread(connection, lambda raw: self._commit_locked(raw, batch))
        if planned.head.position > self.head.current.position:
            self.head.advance(planned.head)
        if planned.rows:
            self._notifier.notify()
        # What others have written since our last commit is counted by its rows: its size only they know.
        self._wal_checkpointer.note_growth(planned.head.position - before, sum(append.size for append in batch))
        await self._acknowledge(loss)
        return planned.outcomes

    def _commit_locked(
        self, connection: sqlite3.Connection, batch: Sequence[PendingAppend]
    ) -> tuple[BatchPlan, FileLoss | None]:
        """One transaction, in the connection's thread. Returns also whether it is in a file that has lost its name."""
        with self._write_lock.held():
            self._wal_length.check(connection)
            with transaction(connection):
                planned = self._write_rows(connection, batch)
            self._wal_length.remember()
            return planned, self._files.find_loss()

    def _write_rows(self, connection: sqlite3.Connection, batch: Sequence[PendingAppend]) -> BatchPlan:
        head = read_head(connection)
        self._refuse_rewound(head)
        digests = {sha256 for append in batch for _, sha256 in append.media}
        missing = find_missing(digests, connection) if digests else NOTHING
        depended = depended_streams(batch)
        # No other versions: believe the callers, who are nearly always right.
        planned = plan(batch, head, read_versions(depended, connection) if depended else {}, missing)
        try:
            insert_rows(connection, planned.rows)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname not in CONFLICTS:
                raise
            versions = read_versions(list({*depended, *(append.stream_id for append in batch)}), connection)
            planned = plan(batch, head, versions, missing)
            insert_rows(connection, planned.rows)
        consume_uploads(connection, planned.uploads)
        erase_content(connection, planned.erasures)
        return planned

    def _transact(self, call: Call[T], connection: sqlite3.Connection) -> tuple[T, FileLoss | None]:
        with self._write_lock.held():
            return super()._transact(call, connection)
