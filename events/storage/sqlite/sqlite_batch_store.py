"""The write side of a SQLite log: one connection, used by the writer's task alone."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import aiosqlite

from events.errors import LogError, LogStopped, LogUnavailable, OutcomeUnknown
from events.integrity.hash_chain import GENESIS
from events.options import LogOptions
from events.record import Head
from events.storage.append_batch import Outcome, PendingAppend, plan
from events.storage.head_notifier import HeadNotifier
from events.storage.incomplete_log import WritingCommand
from events.storage.sqlite.batched_connection import run_in_thread
from events.storage.sqlite.file_loss_detector import FileLoss, FileLossDetector, WalTruncated, WalTruncationDetector
from events.storage.sqlite.sqlite_schema import (
    COLUMNS,
    DAMAGED,
    connect_writer,
    explain,
    is_corrupt,
    mark,
    primary_code,
    unavailable,
)
from events.storage.sqlite.wal_checkpointer import WalCheckpointer

ROUNDS_MAX = 4  # one to believe the callers, one with the streams' true versions, the others for a foreign writer
STATEMENTS_MAX = 128  # as many as a connection of Python keeps prepared; up to 12 KiB each
FILE_CHECK_S = 1.0  # between looks at whether the log's files are in their places, while nothing is committed
CHECKPOINT_RETRY_S = (0.05, 2.0)  # between attempts: the first pause, doubled up to the last

CLASHES = frozenset({"SQLITE_CONSTRAINT_TRIGGER", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"})
ERASE = "UPDATE events SET data = NULL, salt = NULL WHERE stream_id = ? AND version < ? AND data IS NOT NULL"
_ROW = "(" + ",".join("?" * len(COLUMNS.split(","))) + ")"


class SqliteBatchStore:
    """Commits batches and keeps the head. After any failure it looks at the disk again before it writes."""

    def __init__(self, path: Path, options: LogOptions) -> None:
        self.live = HeadNotifier(Head(0, GENESIS))
        self.wal_clean = asyncio.Event()  # not set: the write-ahead log may hold content that was erased
        self.damage: str | None = None
        self._path = path
        self._options = options
        self._connection: aiosqlite.Connection | None = None
        self._wal_checkpointer = WalCheckpointer(path, options)
        self.missing_file: str | None = None  # the database's file is gone; appends go on when it comes back
        self.work: WritingCommand | None = None  # the command that has not finished this log, and writes it now
        self.files_lost: Callable[[str], None] = lambda reason: None  # hears once of each loss
        self._must_reload = True
        self._files = FileLossDetector(path)
        self._size = WalTruncationDetector(path)
        self._is_wal_unsaved = False  # the write-ahead file is lost, and not yet copied into the database's
        self._check_files_at_s = 0.0
        self._retry_s = CHECKPOINT_RETRY_S[0]
        self._retry_at_s = 0.0

    async def open(self) -> None:
        """Create or open the file, and empty a write-ahead log that a crash has left. Raises as connect_writer."""
        self._connection = await self._connect(create=True)
        await self._reload(self._connection)
        await asyncio.to_thread(self._files.note)
        await self.maintain()

    async def write(self, batch: Sequence[PendingAppend]) -> list[Outcome]:
        """As BatchStore.write. What the disk or another program does to us refuses the whole batch."""
        try:
            sound = self._connection if time.monotonic() < self._check_files_at_s and not self._must_reload else None
            return await self._commit(sound or await self._ready_connection(), batch)
        except sqlite3.Error as error:
            await self._handle_sqlite_error(error)
            # An exception of its own for each caller: raising adds a traceback to it.
            return [unavailable(error, self._path) or LogUnavailable() for _ in batch]
        except LogError as error:
            self._check_files_at_s = 0.0  # `tidy` looks for the cause
            kind = type(error) if isinstance(error, LogUnavailable) else LogUnavailable
            return [kind(*error.args) for _ in batch]

    async def probe(self) -> None:
        """As BatchStore.probe."""
        try:
            await self._commit_nothing(await self._ready_connection())
        except sqlite3.Error as error:
            await self._handle_sqlite_error(error)
            raise (unavailable(error, self._path) or LogUnavailable()) from error

    async def _commit_nothing(self, connection: aiosqlite.Connection) -> None:
        """Write the file's format again: a page, its frame and its fsync, as of the smallest append."""
        await run_in_thread(connection, self._size.check)
        await connection.execute_fetchall(mark(self.work))

    async def maintain(self) -> float | None:
        """Shorten the write-ahead log when it is long, empty it after an erasure, look at the files. As
        BatchStore.tidy.
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
        try:
            emptied = await self._wal_checkpointer.empty(await self._ready_connection())
        except sqlite3.Error as error:  # disk full or the like: the next attempt may do
            await self._handle_sqlite_error(error)
            emptied = False
        except LogError:  # `write` tells it to whoever appends
            emptied = False
        if emptied:
            self.wal_clean.set()
            self._retry_s = CHECKPOINT_RETRY_S[0]
            return None
        pause_s = self._retry_s
        self._retry_at_s = time.monotonic() + pause_s
        self._retry_s = min(pause_s * 2, CHECKPOINT_RETRY_S[1])
        return pause_s

    async def _checkpoint_if_due(self) -> None:
        if self._connection is None or self._must_reload or self.damage is not None:
            return
        try:
            await self._wal_checkpointer.checkpoint_if_due(self._connection)
        except sqlite3.Error as error:  # disk full or the like: commits go on while they can
            await self._handle_sqlite_error(error)

    async def close(self) -> None:
        """Empty the write-ahead log, erasures or not, and close the connection."""
        self.live.close("the log is closed")
        if self._connection is not None:
            self.wal_clean.clear()
            self._retry_at_s = 0.0
            try:
                await self.maintain()
            finally:
                await self._disconnect()

    async def _ready_connection(self) -> aiosqlite.Connection:
        """The connection, after a look at whether it can be trusted. Raises LogUnavailable or sqlite3.Error."""
        await self._check_files()
        if self.damage is not None:
            raise LogStopped(self.damage)
        if self.missing_file is not None:
            raise LogUnavailable(self.missing_file)
        if self._connection is None:
            self._connection = await self._connect(create=False)
            self._must_reload = True
        if self._must_reload:
            await self._reload(self._connection)
        if not self._files.is_complete:
            await asyncio.to_thread(self._files.note)
        return self._connection

    async def _connect(self, *, create: bool) -> aiosqlite.Connection:
        return await connect_writer(self._path, self._options, create=create, work=self.work)

    async def _check_files(self) -> None:
        """At the files, when it is time."""
        if self.damage is None and time.monotonic() >= self._check_files_at_s:
            await self._handle_file_loss(await asyncio.to_thread(self._files.find_loss))
            if self._connection is not None and await asyncio.to_thread(self._size.has_shrunk):
                try:
                    await run_in_thread(self._connection, self._size.check)
                except WalTruncated as error:
                    self.damage = str(error)
                    self.files_lost(self.damage)
                except (LogUnavailable, sqlite3.Error):  # commits meet their own
                    self._check_files_at_s = 0.0

    async def _handle_file_loss(self, loss: FileLoss | None) -> None:
        """Nobody will find again what is written now, but the open connection still reads what was recorded: it copies
        it into the database's file at once.
        """
        if loss is None:
            self.missing_file = None
            self._check_files_at_s = time.monotonic() + FILE_CHECK_S
            return
        self._check_files_at_s = 0.0
        if loss.reason not in (self.damage, self.missing_file):
            self.files_lost(loss.reason)
        if loss.is_final:
            self.damage = loss.reason
            await self._rescue_wal()
        else:
            self.missing_file = loss.reason

    async def _rescue_wal(self) -> None:
        connection = self._connection
        if connection is None:
            self._is_wal_unsaved = False
            return
        try:
            self._is_wal_unsaved = not await self._wal_checkpointer.empty(connection)
        except sqlite3.Error:  # disk full or the like: the next attempt may do
            self._is_wal_unsaved = True
        if not self._is_wal_unsaved:
            self.wal_clean.set()

    async def _acknowledge(self, loss: FileLoss | None) -> None:
        """Returns when what was just committed may be acknowledged. Raises OutcomeUnknown."""
        await self._handle_file_loss(loss)
        if loss is not None and (self._is_wal_unsaved or not loss.is_final):
            raise OutcomeUnknown(loss.reason)

    async def _handle_sqlite_error(self, error: sqlite3.Error) -> None:
        """Go on after `error` if it is the disk's or another program's doing, with a new connection where it may have
        harmed this one; raise it again if it is a mistake of ours.
        """
        if unavailable(error, self._path) is None:
            raise error
        if is_corrupt(error):
            self.damage = explain(error, self._path)
        if primary_code(error) in DAMAGED and not self._is_wal_unsaved:
            await self._disconnect()

    async def _disconnect(self) -> None:
        await self._wal_checkpointer.close()
        connection, self._connection = self._connection, None
        self._files.forget()
        if connection is not None:
            await connection.close()

    async def _reload(self, connection: aiosqlite.Connection) -> None:
        rows = await connection.execute_fetchall("SELECT position, digest FROM events ORDER BY position DESC LIMIT 1")
        head = Head(0, GENESIS)
        for position, digest in rows:
            head = Head(position, digest)
        if head.position < self.live.current.position:
            raise LogUnavailable(f"database {self._path} has lost events that were recorded: stop and restore a copy")
        self.live.advance(head)
        self._must_reload = False

    async def _commit(self, connection: aiosqlite.Connection, batch: Sequence[PendingAppend]) -> list[Outcome]:
        versions: dict[str, int] = {}  # none: believe the callers, who are nearly always right
        for _ in range(ROUNDS_MAX):
            planned = plan(batch, self.live.current, versions)
            if not planned.rows and not planned.erasures:
                return planned.outcomes
            values, statement = list(chain.from_iterable(planned.rows)), insertion(len(planned.rows))
            self._must_reload = True
            try:
                if planned.erasures:
                    await self._insert_and_erase(connection, (statement, values), planned.erasures)
                    loss = await asyncio.to_thread(self._files.find_loss)
                else:
                    # Autocommit: the statement is the transaction, in one hop to the connection's thread and one fsync.
                    loss = await run_in_thread(connection, partial(self._insert, statement, values))
            except sqlite3.IntegrityError as error:
                if error.sqlite_errorname not in CLASHES:
                    raise
            else:
                self._must_reload = False
                self.live.advance(planned.head)
                self._wal_checkpointer.note_growth(len(planned.rows), sum(append.size for append in batch))
                await self._acknowledge(loss)
                # Each stream's first append has passed the triggers, so whoever was found to conflict with it does.
                return planned.outcomes
            await self._reload(connection)
            versions = await self._versions(connection, {append.stream_id for append in batch})
        raise LogUnavailable(f"database {self._path}: another program writes to it; stop that program")

    def _insert(
        self, statement: str, values: list[int | str | bytes], connection: sqlite3.Connection
    ) -> FileLoss | None:
        """One transaction, in the connection's thread; then whether it is in a file that has a name."""
        self._size.check(connection)
        connection.execute(statement, values)
        self._size.note()
        return self._files.find_loss()

    async def _insert_and_erase(
        self,
        connection: aiosqlite.Connection,
        insert: tuple[str, list[int | str | bytes]],
        erasures: Sequence[tuple[str, int]],
    ) -> None:
        await run_in_thread(connection, self._size.check)
        await connection.execute_fetchall("BEGIN IMMEDIATE")
        try:
            if insert[1]:
                await connection.execute_fetchall(*insert)
            for erasure in erasures:
                await connection.execute_fetchall(ERASE, erasure)
            self.wal_clean.clear()
            self._retry_at_s = 0.0
            await connection.execute_fetchall("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has rolled it back already
                await connection.execute_fetchall("ROLLBACK")
            raise

    async def _versions(self, connection: aiosqlite.Connection, streams: set[str]) -> dict[str, int]:
        rows = await connection.execute_fetchall(versions_of(len(streams)), list(streams))
        return dict(rows)  # type: ignore[arg-type]  # rows are pairs


def versions_of(streams: int) -> str:
    """The query for the versions of so many streams."""
    return (
        "WITH asked (stream_id) AS (VALUES " + ",".join(["(?)"] * streams) + ")"  # noqa: S608  placeholders
        " SELECT stream_id, coalesce((SELECT max(version) FROM events WHERE stream_id = asked.stream_id), 0) FROM asked"
    )


@lru_cache(maxsize=STATEMENTS_MAX)
def insertion(rows: int) -> str:
    """The statement that writes so many rows."""
    return f"INSERT INTO events ({COLUMNS}) VALUES " + ",".join([_ROW] * rows)  # noqa: S608  constants
