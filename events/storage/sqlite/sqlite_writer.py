"""What only a log that may write has: the lock, the store and the writer's task."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from events.catalogue import Event
from events.errors import LogUnavailable
from events.options import LogOptions
from events.record import RecordedEvent
from events.storage.append_batch import AppendContext, erasure, prepare
from events.storage.database_lock import DatabaseLock
from events.storage.group_commit import GroupCommit, LogObserver
from events.storage.head_notifier import HeadNotifier
from events.storage.sqlite import sqlite_batch_store
from events.storage.sqlite.notifier import Notifier
from events.storage.sqlite.shared_batch_store import SharedBatchStore
from events.storage.sqlite.sqlite_batch_store import SqliteBatchStore


class SqliteWriter:
    """Opened with `open`; let go with `stop`, then `close`. `sources` are the clock and the source of salts; `wakeups`
    are there where other processes write, too."""

    def __init__(
        self,
        database: Path,
        options: LogOptions,
        sources: tuple[Callable[[], int], Callable[[int], bytes]],
        notifier: Notifier | None = None,
    ) -> None:
        self.clock, self._random_bytes = sources
        self.store = (
            SqliteBatchStore(database, options) if notifier is None else SharedBatchStore(database, options, notifier)
        )
        self._notifier = notifier
        self._lock = DatabaseLock(database)
        self._options = options
        self._writer: GroupCommit | None = None
        self._file_check_task: asyncio.Task[None] | None = None

    async def open(self, observe: LogObserver) -> HeadNotifier:
        """Take the lock, open the file, start writing. Raises LogUnusable or sqlite3.Error; close all the same."""
        if self._notifier is None:
            await asyncio.to_thread(self._lock.acquire)
        else:
            await asyncio.to_thread(self._lock.adopt, self._notifier.locks)
        self.store.files_lost = observe.files_lost
        await self.store.open()
        self._writer = GroupCommit(self.store, self._options, observe)
        self._file_check_task = asyncio.create_task(self._check_files_periodically(self._writer), name="log-look")
        return self.store.live

    async def _check_files_periodically(self, writer: GroupCommit) -> None:
        """Have the store look at its files, also while nobody appends."""
        while True:
            await asyncio.sleep(sqlite_batch_store.FILE_CHECK_S / 2)
            writer.wake()

    @property
    def failure(self) -> BaseException | None:
        """As SqliteLog.failure."""
        return None if self._writer is None else self._writer.failure

    def record(self, events: Sequence[Event], origin: AppendContext) -> asyncio.Future[tuple[RecordedEvent, ...]]:
        """Have `events` written; the future tells what became of them. Both raise as EventLog.append."""
        if self._writer is None:
            raise LogUnavailable("the log is not open")
        return self._writer.submit(prepare(events, origin, self._random_bytes))

    async def probe(self) -> None:
        """As BatchWriter.probe."""
        if self._writer is None:
            raise LogUnavailable("the log is not open")
        await self._writer.probe()

    def finish_erasure(self, stream_id: str, version: int) -> asyncio.Future[tuple[RecordedEvent, ...]]:
        """As `record`, of an erasure whose event is recorded already."""
        if self._writer is None:
            raise LogUnavailable("the log is not open")
        return self._writer.submit(erasure(stream_id, version))

    async def erased(self) -> None:
        """Wait until no file holds erased content, for `erase_wait_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.erase_wait_s):
                await self.store.wal_clean.wait()

    def refuse(self) -> None:
        """From now on refuse what comes."""
        if self._writer is not None:
            self._writer.refuse()

    async def stop(self) -> None:
        """Refuse what comes and write what waits."""
        if self._file_check_task is not None:
            self._file_check_task.cancel()
            await asyncio.wait([self._file_check_task])
        if self._writer is not None:
            await self._writer.close()

    async def close(self) -> None:
        """Empty the write-ahead log and let go of file and lock, whatever state they are in."""
        try:
            await self.store.close()
        finally:
            self._lock.release()
