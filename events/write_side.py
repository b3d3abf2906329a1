"""What only a log that may write has: the lock, the store and the writer's task."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from events import sqlite_store
from events.batch import Origin, erasure, prepare
from events.catalogue import Event
from events.errors import LogUnavailable
from events.live_head import LiveHead
from events.lock import DatabaseLock
from events.options import LogOptions
from events.record import RecordedEvent
from events.sqlite_shared_store import SharedStore
from events.sqlite_store import SqliteStore
from events.wakeups import Wakeups
from events.writer import BatchWriter, LogObserver


class WriteSide:
    """Opened with `open`; let go with `stop`, then `close`. `sources` are the clock and the source of salts; `wakeups`
    are there where other processes write, too."""

    def __init__(
        self,
        database: Path,
        options: LogOptions,
        sources: tuple[Callable[[], int], Callable[[int], bytes]],
        wakeups: Wakeups | None = None,
    ) -> None:
        self.clock, self._random_bytes = sources
        self.store = SqliteStore(database, options) if wakeups is None else SharedStore(database, options, wakeups)
        self._wakeups = wakeups
        self._lock = DatabaseLock(database)
        self._options = options
        self._writer: BatchWriter | None = None
        self._looking: asyncio.Task[None] | None = None

    async def open(self, observe: LogObserver) -> LiveHead:
        """Take the lock, open the file, start writing. Raises LogUnusable or sqlite3.Error; close all the same."""
        if self._wakeups is None:
            await asyncio.to_thread(self._lock.acquire)
        else:
            await asyncio.to_thread(self._lock.adopt, self._wakeups.locks)
        self.store.files_lost = observe.files_lost
        await self.store.open()
        self._writer = BatchWriter(self.store, self._options, observe)
        self._looking = asyncio.create_task(self._look(self._writer), name="log-look")
        return self.store.live

    async def _look(self, writer: BatchWriter) -> None:
        """Have the store look at its files, also while nobody appends."""
        while True:
            await asyncio.sleep(sqlite_store.LOOK_S / 2)
            writer.wake()

    @property
    def failure(self) -> BaseException | None:
        """As SqliteLog.failure."""
        return None if self._writer is None else self._writer.failure

    def record(self, events: Sequence[Event], origin: Origin) -> asyncio.Future[tuple[RecordedEvent, ...]]:
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
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        if self._writer is not None:
            await self._writer.close()

    async def close(self) -> None:
        """Empty the write-ahead log and let go of file and lock, whatever state they are in."""
        try:
            await self.store.close()
        finally:
            self._lock.release()
