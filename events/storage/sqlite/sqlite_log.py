"""The event log in one SQLite file. Implements events.log.EventLog."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from events.catalogue import Event
from events.compatibility import EventTypeGate, OtherNodes
from events.errors import LogStopped, LogUnavailable, LogUnusable
from events.log import AppendListener
from events.log_observer import LogObserver, NoObserver
from events.options import LogOptions
from events.record import Head, Metadata, RecordedEvent, StreamVersion
from events.storage.append_batch import AppendContext, buffered_random_bytes, erasure, now_us, prepare
from events.storage.database_lock import DatabaseLock, database_file
from events.storage.erasure_rules import check_erasure_explained, is_erasing_all
from events.storage.file_lock import identity
from events.storage.group_commit import GroupCommit, HeadNotifier
from events.storage.incomplete_log import WritingCommand
from events.storage.media_sweeper import MediaSweeper
from events.storage.sqlite import sqlite_batch_store
from events.storage.sqlite.batched_connection import run_in_thread
from events.storage.sqlite.sqlite_batch_store import SqliteBatchStore
from events.storage.sqlite.sqlite_errors import unusable
from events.storage.sqlite.sqlite_media import SqliteMedia
from events.storage.sqlite.sqlite_queries import SqliteQueries
from events.storage.sqlite.sqlite_read_pool import SqliteReadPool
from events.storage.sqlite.sqlite_schema import check_format, connect_reader, read_head


class WriteSide:
    """What only a log that may write has: the locks, the store and the writer's task. Made by `open`."""

    def __init__(self, lock: DatabaseLock, store: SqliteBatchStore, writer: GroupCommit, file: tuple[int, int]) -> None:
        self.file = file  # identity of the database's file
        self.store = store
        self.writer = writer
        self._lock = lock
        self._file_check_task = asyncio.create_task(self._check_files_periodically(), name="log-file-check")

    @classmethod
    async def open(
        cls,
        database: Path,
        store: SqliteBatchStore,
        options: LogOptions,
        observe: LogObserver,
        owner: int | None,
    ) -> "WriteSide":
        """Take the locks, open the file, start the writer. Raises LogUnusable or sqlite3.Error."""
        lock = DatabaseLock(database, owner)
        try:
            await asyncio.to_thread(lock.acquire)
            store.on_files_lost = observe.files_lost
            await store.open(lock.database_descriptor)
            file = await asyncio.to_thread(identity, database)
            return cls(lock, store, GroupCommit(store, options, observe), file)
        except BaseException:
            try:
                await store.close()
            finally:
                lock.release()
            raise

    async def stop(self) -> None:
        """Refuse new appends and write those that wait."""
        self._file_check_task.cancel()
        await asyncio.wait([self._file_check_task])
        await self.writer.close()

    async def close(self) -> None:
        """Empty the write-ahead log, close the file and release the locks, whatever state they are in."""
        try:
            await self.store.close()
        finally:
            self._lock.release()

    async def _check_files_periodically(self) -> None:
        """Have the store check its files, also while nothing is appended."""
        while True:
            await asyncio.sleep(sqlite_batch_store.FILE_CHECK_S)
            self.writer.wake()


class SqliteLog(SqliteQueries):
    """An event log in one file. Made by `open`; every instance must be closed."""

    def __init__(
        self,
        pool: SqliteReadPool,
        head: HeadNotifier,
        options: LogOptions,
        sources: tuple[Callable[[], int], Callable[[int], bytes]],
        write_side: WriteSide | None,
    ) -> None:
        super().__init__(pool)
        self._head = head
        self._options = options
        self._clock, self._random_bytes = sources
        self._write_side = write_side
        self._gate: EventTypeGate | None = None
        self._closed: asyncio.Task[None] | None = None
        self._media_sweeper: MediaSweeper | None = None
        writes = None if write_side is None else (write_side.writer, write_side.store)
        self.media = SqliteMedia(pool, self._clock, writes, options.erase_wait_s)

    @classmethod
    async def open(  # noqa: PLR0913  each has a default that suits
        cls,
        path: str | Path,
        options: LogOptions | None = None,
        *,
        read_only: bool = False,
        clock: Callable[[], int] = now_us,
        random_bytes: Callable[[int], bytes] | None = None,
        observe: LogObserver | None = None,
        owner: int | None = None,
        other_nodes: OtherNodes | None = None,
        command: WritingCommand | None = None,
    ) -> "SqliteLog":
        """Open the log in `path`, created if missing.

        With `read_only` no event and no lock is written, so that offline commands work while a server runs and on a
        read-only copy; `head` is then the end of the log at this moment. `clock` gives microseconds, UTC;
        `random_bytes` the salts, by default the system's. `owner` is the process to stop before
        another one can write the file; None: this one. `other_nodes` knows what other processes can read. A log that a
        command has not finished is opened only for that `command`.
        Raises LogUnusable (of which LogInUse is one), which says what to do about it.
        """
        options = options or LogOptions()
        observe = observe or NoObserver()
        database = await asyncio.to_thread(database_file, Path(path), read_only=read_only)
        pool, side = SqliteReadPool(database, options), None
        try:
            if read_only:
                head = await _read_only_head(database, options, command)
            else:
                store = SqliteBatchStore(database, options, command)
                side = await WriteSide.open(database, store, options, observe, owner)
                head = store.head
            await pool.open()
        except BaseException as error:
            await _release(pool, side)
            if isinstance(error, sqlite3.Error):
                raise unusable(error, database) from error
            raise
        log = cls(pool, head, options, (clock, random_bytes or buffered_random_bytes()), side)
        if other_nodes is not None:
            log._gate = EventTypeGate(other_nodes, observe)
        if side is not None:
            log._media_sweeper = MediaSweeper(log.media, clock)
        return log

    @property
    def write_side(self) -> WriteSide | None:
        """What writes; None for a log that is only read."""
        return self._write_side

    @property
    def failure(self) -> BaseException | None:
        """The last exception in the writer that only a bug can cause; it refused one batch."""
        return None if self._write_side is None else self._write_side.writer.failure

    @property
    def damage(self) -> str | None:
        """As EventLog.damage."""
        store = None if self._write_side is None else self._write_side.store
        return self._pool.damage or (None if store is None else store.damage or store.missing_file)

    @property
    def erasure_pending(self) -> bool:
        """Whether a reader in another program still keeps erased content in the write-ahead log."""
        return self._write_side is not None and not self._write_side.store.wal_clean.is_set()

    @property
    def oldest_append_s(self) -> float:
        """As EventLog.oldest_append_s."""
        return 0.0 if self._write_side is None else self._write_side.writer.oldest_append_s

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        """As EventLog.read_all. The newest events come from memory, if this process has written them."""
        newest = None if self._write_side is None else self._write_side.store.newest.after(after, limit)
        return await super().read_all(after=after, limit=limit) if newest is None else newest

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.append. Raises ValueError for text that is not Unicode or more events than a batch may hold."""
        side = self._require_write_side()
        if self._gate is not None:
            await self._gate.admit(events)
        context = AppendContext(stream_id, expected_version, metadata, self._clock())
        return await side.writer.submit(prepare(events, context, self._random_bytes))

    async def erase(
        self,
        stream_id: str,
        expected_version: int,
        event: Event,
        metadata: Metadata,
        *,
        unchanged: StreamVersion | None = None,
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.erase. While another program reads the file for longer than `erase_wait_s` it returns all the
        same (the event is recorded, no query shows the content); `erasure_pending` is then true until that reader
        has closed the file.
        """
        erases_all = is_erasing_all(event)
        side = self._require_write_side()
        if self._gate is not None:
            await self._gate.admit([event])
        context = AppendContext(stream_id, expected_version, metadata, self._clock(), erases_all, unchanged)
        recorded = await side.writer.submit(prepare([event], context, self._random_bytes))
        await self._wait_until_wal_clean(side)
        return recorded

    async def admits(self, versions: Mapping[str, int]) -> bool:
        """As EventLog.admits."""
        return self._gate is None or await self._gate.admits(versions)

    async def finish_erasure(self, stream_id: str, version: int) -> None:
        """As EventLog.finish_erasure; `erasure_pending` as after `erase`."""
        side = self._require_write_side()
        await check_erasure_explained(self, stream_id, version)
        await side.writer.submit(erasure(stream_id, version))
        await self._wait_until_wal_clean(side)

    def head(self) -> Head:
        """As EventLog.head."""
        return self._head.current

    async def latest(self) -> Head:
        """As EventLog.latest."""
        return self._head.current

    @property
    def is_shared(self) -> bool:
        """As EventLog.is_shared."""
        return False

    async def check_writable(self) -> None:
        """As EventLog.check_writable."""
        await self._require_write_side().writer.probe()

    async def wait(self, position: int) -> Head:
        """As EventLog.wait. Raises LogUnavailable when the log closes first."""
        return await self._head.wait(position)

    def watch_head(self, position: int, listener: Callable[[], None]) -> None:
        """As NotifyingLog.watch_head."""
        self._head.listeners[listener] = position

    def unwatch_head(self, listener: Callable[[], None]) -> None:
        """As NotifyingLog.unwatch_head."""
        self._head.listeners.pop(listener, None)

    def hold(self, stream_id: str) -> None:
        """As EventLog.hold: no other process appends."""

    def release(self, stream_id: str) -> None:
        """As EventLog.release: no other process appends."""

    def listen(self, listener: AppendListener) -> None:
        """As EventLog.listen: no other process appends."""

    async def close(self) -> None:
        """As EventLog.close. A second call waits for the first."""
        if self._write_side is not None:
            self._write_side.writer.refuse()
        if self._closed is None:
            self._closed = asyncio.create_task(self._release(), name="log-close")
        await asyncio.shield(self._closed)

    async def _release(self) -> None:
        if self._media_sweeper is not None:
            await self._media_sweeper.close()
        await _release(self._pool, self._write_side)

    def _require_write_side(self) -> WriteSide:
        side = self._write_side
        if side is None:
            raise LogUnavailable("the log was opened for reading only")
        damage = self._pool.damage or side.store.damage
        if damage is not None:
            raise LogStopped(damage)
        return side

    async def _wait_until_wal_clean(self, side: WriteSide) -> None:
        """Wait until no file holds erased content, for `erase_wait_s` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.erase_wait_s):
                await side.store.wal_clean.wait()


async def _release(pool: SqliteReadPool, side: WriteSide | None) -> None:
    try:
        if side is not None:
            await side.stop()
    finally:
        try:
            await pool.close()
        finally:
            if side is not None:
                await side.close()  # last: only then can SQLite remove its write-ahead log


async def _read_only_head(database: Path, options: LogOptions, command: WritingCommand | None) -> HeadNotifier:
    """The head of a log that is only read, where it never moves."""
    connection = await connect_reader(database, options)
    try:
        if await check_format(connection, database, command):
            raise LogUnusable(f"database {database} is empty: there is no log in it")
        head = HeadNotifier(await run_in_thread(connection, read_head))
    finally:
        await connection.close()
    head.close("the log was opened for reading only")
    return head
