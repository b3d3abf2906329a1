"""The write side of a SQLite log: one connection, used by the writer's task only."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import aiosqlite

from events.backoff import backoff_delays
from events.errors import LogError, LogStopped, LogUnavailable, OutcomeUnknown
from events.integrity.hash_chain import GENESIS
from events.media import CHUNKS_AT_ONCE, MEDIA_CHUNK_BYTES
from events.options import LogOptions
from events.record import Head
from events.storage.append_batch import BatchPlan, Outcome, PendingAppend, depended_streams, plan
from events.storage.group_commit import HeadNotifier
from events.storage.incomplete_log import WritingCommand
from events.storage.newest_events import NewestEvents
from events.storage.sqlite.batched_connection import Call, run_in_thread
from events.storage.sqlite.sqlite_errors import explain, is_connection_error, is_corrupt, unavailable
from events.storage.sqlite.sqlite_media_schema import consume_uploads, delete_unused, find_missing
from events.storage.sqlite.sqlite_schema import (
    connect_writer,
    erase_content,
    insert_rows,
    insert_statement,
    mark,
    read_head,
    read_versions,
    transaction,
)
from events.storage.sqlite.wal import (
    FileLoss,
    FileLossDetector,
    WalCheckpointer,
    WalLength,
    WalTruncated,
)

T = TypeVar("T")

ROUNDS_MAX = 4  # one to believe the callers, one with the streams' true versions, the others for a foreign writer
FILE_CHECK_S = 1.0  # between checks that the log's files are in their places, while nothing is committed
CHECKPOINT_RETRY_S = (0.05, 2.0)  # between attempts to empty the write-ahead log: the first pause and the longest

NOTHING: frozenset[bytes] = frozenset()
CONFLICTS = frozenset({"SQLITE_CONSTRAINT_TRIGGER", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"})


class SqliteBatchStore:
    """Commits batches and keeps the head. After any failure it reads the head again before it writes.

    What stops it, from the worst: `damage` (for good), `missing_file` (until the file is back), a lost connection or an
    unknown head (until the next call, which opens or reads again).
    """

    def __init__(self, path: Path, options: LogOptions, command: WritingCommand | None = None) -> None:
        self.head = HeadNotifier(Head(0, GENESIS))
        self.newest = NewestEvents()  # empty where other processes append, too
        self.wal_clean = asyncio.Event()  # not set: a file may hold content that was erased
        self._has_unused_media = True  # perhaps, as a crash may have left some
        self.damage: str | None = None
        self.missing_file: str | None = None  # the database's file is gone; appends go on when it comes back
        self.on_files_lost: Callable[[str], None] = lambda reason: None  # called once for each loss
        self._path = path
        self._options = options
        self._command = command  # the command that has not finished this log, and writes it now
        self._connection: aiosqlite.Connection | None = None
        self._wal_checkpointer = WalCheckpointer(options, self._connect_checkpointer)
        self._is_head_known = False
        self._files = FileLossDetector(path)
        self._wal_length = WalLength(path, options.wal_limit_bytes)
        self._is_wal_unsaved = False  # the write-ahead log is lost, and not yet copied into the database
        self._check_files_at_s = 0.0
        self._retry_delays = backoff_delays(*CHECKPOINT_RETRY_S)
        self._retry_at_s = 0.0

    async def open(self, database_descriptor: int | None = None) -> None:
        """Create or open the file, and empty a write-ahead log that a crash has left. Raises as connect_writer.

        `database_descriptor` is one of the database's file that stays open until the store is closed.
        """
        self._wal_checkpointer.database_descriptor = database_descriptor
        self._connection = await self._connect(create=True)
        await self._reload(self._connection)
        await asyncio.to_thread(self._files.remember)
        await self.maintain()

    async def write(self, batch: Sequence[PendingAppend]) -> list[Outcome]:
        """As BatchStore.write. A fault of the disk or of another program refuses the whole batch."""
        try:
            is_fresh = time.monotonic() < self._check_files_at_s and self._is_head_known
            return await self._commit((self._connection if is_fresh else None) or await self._ready_connection(), batch)
        except sqlite3.Error as error:
            await self._handle_sqlite_error(error)
            # An exception of its own for each caller: raising adds a traceback to it.
            return [unavailable(error, self._path) or LogUnavailable() for _ in batch]
        except LogError as error:
            self._check_files_at_s = 0.0  # `maintain` looks for the cause
            kind = type(error) if isinstance(error, LogUnavailable) else LogUnavailable
            return [kind(*error.args) for _ in batch]

    async def transact(self, call: Call[T], *, size: int = 0) -> T:
        """The result of `call`, run in one transaction, which may write about `size` bytes. In the writer's task.
        Raises what `call` raises, LogUnavailable.
        """
        try:
            connection = await self._ready_connection()
            result, loss = await run_in_thread(connection, partial(self._transact, call))
        except sqlite3.Error as error:
            await self._handle_sqlite_error(error)
            raise (unavailable(error, self._path) or LogUnavailable()) from error
        self._wal_checkpointer.note_growth(1, size)
        await self._acknowledge(loss)
        return result

    async def delete_unused_media(self) -> None:
        """Have `maintain` delete the bytes of files that nothing refers to, and then empty the write-ahead log. In the
        writer's task.
        """
        self._has_unused_media = True
        self._request_empty_wal()

    async def probe(self) -> None:
        """As BatchStore.probe."""
        try:
            await self._commit_nothing(await self._ready_connection())
        except sqlite3.Error as error:
            await self._handle_sqlite_error(error)
            raise (unavailable(error, self._path) or LogUnavailable()) from error

    async def _commit_nothing(self, connection: aiosqlite.Connection) -> None:
        """Write the file's format number again: a page, its frame and its fsync, as of the smallest append."""
        await run_in_thread(connection, self._wal_length.check)
        await connection.execute_fetchall(mark(self._command))

    async def maintain(self) -> float | None:
        """As BatchStore.maintain: check the files, shorten the write-ahead log when it is long, after an erasure delete
        the files that nothing refers to and empty it.
        """
        if self._is_wal_unsaved:
            await self._rescue_wal()
        elif self._connection is not None:
            await self._check_files()
        if self._is_wal_unsaved:
            return CHECKPOINT_RETRY_S[0]
        if self.wal_clean.is_set():
            await self._checkpoint_if_due()
            return None
        wait_s = self._retry_at_s - time.monotonic()
        if wait_s > 0:
            return wait_s
        if self._has_unused_media and await self._delete_unused():
            await self._checkpoint_if_due()
            return 0.0
        if not self._has_unused_media and await self._empty_wal():
            self.wal_clean.set()
            self._retry_delays = backoff_delays(*CHECKPOINT_RETRY_S)
            return None
        pause_s = next(self._retry_delays)
        self._retry_at_s = time.monotonic() + pause_s
        return pause_s

    async def _delete_unused(self) -> bool:
        """Delete a few chunks: whether there may be more. Where that fails, the next attempt may succeed."""
        try:
            self._has_unused_media = await self.transact(delete_unused, size=CHUNKS_AT_ONCE * MEDIA_CHUNK_BYTES)
        except LogError:
            return False
        return self._has_unused_media

    async def _empty_wal(self) -> bool:
        try:
            return await self._wal_checkpointer.empty(await self._ready_connection())
        except sqlite3.Error as error:  # disk full or the like: the next attempt may succeed
            await self._handle_sqlite_error(error)
        except LogError:  # `write` reports it to the next caller
            pass
        return False

    async def _checkpoint_if_due(self) -> None:
        if self._connection is None or not self._is_head_known or self.damage is not None:
            return
        try:
            await self._wal_checkpointer.checkpoint_if_due(self._connection)
        except sqlite3.Error as error:  # disk full or the like: commits go on while they can
            await self._handle_sqlite_error(error)

    async def close(self) -> None:
        """Empty the write-ahead log, erasures or not, and close the connection."""
        self.head.close("the log is closed")
        self.newest.clear()
        if self._connection is not None:
            self._request_empty_wal()
            self._has_unused_media = False  # what is left is deleted when the log is opened again
            try:
                await self.maintain()
            finally:
                await self._disconnect()

    def _request_empty_wal(self) -> None:
        """Have the next `maintain` empty the write-ahead log at once."""
        self.wal_clean.clear()
        self._retry_at_s = 0.0

    async def _ready_connection(self) -> aiosqlite.Connection:
        """The connection, once file and head are checked. Raises LogUnavailable or sqlite3.Error."""
        await self._check_files()
        if self.damage is not None:
            raise LogStopped(self.damage)
        if self.missing_file is not None:
            raise LogUnavailable(self.missing_file)
        if self._connection is None:
            self._connection = await self._connect(create=False)
            self._is_head_known = False
        if not self._is_head_known:
            await self._reload(self._connection)
        if not self._files.is_complete:
            await asyncio.to_thread(self._files.remember)
        return self._connection

    async def _connect(self, *, create: bool) -> aiosqlite.Connection:
        return await connect_writer(self._path, self._options, create=create, command=self._command)

    async def _connect_checkpointer(self) -> aiosqlite.Connection:
        return await connect_writer(self._path, self._options, create=False, command=self._command)

    async def _check_files(self) -> None:
        """Check that the files are in their places and whole, when it is time."""
        if self.damage is None and time.monotonic() >= self._check_files_at_s:
            loss, has_shrunk = await asyncio.to_thread(self._look_at_files)
            await self._handle_file_loss(loss)
            if self._connection is not None and has_shrunk:
                try:
                    await run_in_thread(self._connection, self._wal_length.check)
                except WalTruncated as error:
                    self.damage = str(error)
                    self.on_files_lost(self.damage)
                except (LogUnavailable, sqlite3.Error):  # commits meet their own
                    self._check_files_at_s = 0.0

    def _look_at_files(self) -> tuple[FileLoss | None, bool]:
        """In a thread. Returns also whether the write-ahead log has become shorter."""
        return self._files.find_loss(), self._wal_length.has_shrunk()

    async def _handle_file_loss(self, loss: FileLoss | None) -> None:
        """What is written to a lost file is lost, too, but the open connection still reads what was recorded: have it
        copied into the database at once.
        """
        if loss is None:
            self.missing_file = None
            self._check_files_at_s = time.monotonic() + 0.9 * FILE_CHECK_S  # the next timer must not be just too early
            return
        self._check_files_at_s = 0.0
        if loss.reason not in (self.damage, self.missing_file):
            self.on_files_lost(loss.reason)
        if loss.is_final:
            await self._rescue_wal()
            self.damage = loss.reason  # last: where it is set, the file is complete
        else:
            self.missing_file = loss.reason

    async def _rescue_wal(self) -> None:
        connection = self._connection
        if connection is None:
            self._is_wal_unsaved = False
            return
        try:
            self._is_wal_unsaved = not await self._wal_checkpointer.empty(connection)
        except sqlite3.Error:  # disk full or the like: the next attempt may succeed
            self._is_wal_unsaved = True
        if not self._is_wal_unsaved:
            self.wal_clean.set()

    async def _acknowledge(self, loss: FileLoss | None) -> None:
        """Returns when what was just committed may be acknowledged. Raises OutcomeUnknown."""
        await self._handle_file_loss(loss)
        if loss is not None and (self._is_wal_unsaved or not loss.is_final):
            raise OutcomeUnknown(loss.reason)

    async def _handle_sqlite_error(self, error: sqlite3.Error) -> None:
        """Continue after an error of the disk or of another program, with a new connection where it may have harmed
        this one. Raises `error` where it is a bug.
        """
        if unavailable(error, self._path) is None:
            raise error
        if is_corrupt(error):
            self.damage = explain(error, self._path)
        if is_connection_error(error) and not self._is_wal_unsaved:
            await self._disconnect()

    async def _disconnect(self) -> None:
        await self._wal_checkpointer.close()
        connection, self._connection = self._connection, None
        self._files.forget()
        if connection is not None:
            await connection.close()

    async def _reload(self, connection: aiosqlite.Connection) -> None:
        head = await run_in_thread(connection, read_head)
        self._refuse_rewound(head)
        self.head.advance(head)
        self._is_head_known = True

    def _refuse_rewound(self, head: Head) -> None:
        if head.position < self.head.current.position:
            raise LogUnavailable(f"database {self._path} has lost events that were recorded: stop and restore a copy")

    async def _commit(self, connection: aiosqlite.Connection, batch: Sequence[PendingAppend]) -> list[Outcome]:
        depended = depended_streams(batch)
        # No others: believe the callers, who are nearly always right.
        versions = await run_in_thread(connection, partial(read_versions, depended)) if depended else {}
        digests = {sha256 for append in batch for _, sha256 in append.media}
        # Found now, it is there when the rows are written: only this task deletes.
        missing = await run_in_thread(connection, partial(find_missing, digests)) if digests else NOTHING
        for _ in range(ROUNDS_MAX):
            planned = plan(batch, self.head.current, versions, missing)
            if not planned.rows and not planned.erasures:
                return planned.outcomes
            if planned.removes_content:
                await self.delete_unused_media()
            self._is_head_known = False
            try:
                loss = await run_in_thread(connection, partial(self._write_plan, planned))
            except sqlite3.IntegrityError as error:
                if error.sqlite_errorname not in CONFLICTS:
                    raise
            else:
                self._is_head_known = True
                self.head.advance(planned.head)
                self._wal_checkpointer.note_growth(len(planned.rows), planned.size)
                await self._acknowledge(loss)
                self.newest.add(batch, planned)
                # Each stream's first append has passed the triggers, so every conflict that was found with it is one.
                return planned.outcomes
            await self._reload(connection)
            streams = list({*depended, *(append.stream_id for append in batch)})
            versions = await run_in_thread(connection, partial(read_versions, streams))
        raise LogUnavailable(f"database {self._path}: another program writes to it; stop that program")

    def _write_plan(self, planned: BatchPlan, connection: sqlite3.Connection) -> FileLoss | None:
        """One transaction, in the connection's thread. Returns whether it is in a file that has lost its name."""
        self._wal_length.check(connection)
        if planned.erasures or planned.uploads:
            with transaction(connection):
                insert_rows(connection, planned.rows)
                consume_uploads(connection, planned.uploads)
                erase_content(connection, planned.erasures)
        else:  # autocommit: the statement is the transaction
            connection.execute(insert_statement(len(planned.rows)), list(chain.from_iterable(planned.rows)))
        return self._remember_files()

    def _transact(self, call: Call[T], connection: sqlite3.Connection) -> tuple[T, FileLoss | None]:
        """In the connection's thread. Returns also whether it is in a file that has lost its name."""
        self._wal_length.check(connection)
        with transaction(connection):
            result = call(connection)
        return result, self._remember_files()

    def _remember_files(self) -> FileLoss | None:
        """After a commit. Returns whether it is in a file that has lost its name."""
        loss = self._files.find_loss()
        if loss is None:
            self._wal_length.remember()
        return loss
