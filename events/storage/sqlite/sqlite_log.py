"""The event log in one SQLite file. Implements events.log.EventLog."""

import asyncio
import io
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from events.catalogue import ERASURE_TYPES, Event
from events.codec import event_type
from events.compatibility import EventTypeGate, OtherNodes
from events.errors import LogStopped, LogUnavailable, LogUnusable
from events.integrity.hash_chain import GENESIS
from events.log import Snapshot
from events.options import LogOptions
from events.record import EventHeader, Head, Metadata, RawColumns, RecordedEvent, StoredRow
from events.storage.append_batch import AppendContext
from events.storage.database_lock import database_file
from events.storage.erasure_rules import check_erasure_explained
from events.storage.group_commit import LogObserver, NoObserver
from events.storage.head_notifier import HeadNotifier
from events.storage.incomplete_log import WritingCommand
from events.storage.sqlite.head_poller import HeadPoller
from events.storage.sqlite.notifier import Notifier
from events.storage.sqlite.sqlite_readers import (
    SqliteReaders,
    all_events,
    event_headers,
    events_at,
    scan_raw_rows,
    sizes_at,
    stored_rows,
    stored_stream,
    stream_events,
)
from events.storage.sqlite.sqlite_schema import check_format, connect_reader, explain
from events.storage.sqlite.sqlite_writer import SqliteWriter

__all__ = ["LogObserver", "LogOptions", "SqliteLog"]

T = TypeVar("T")

RANDOM_BUFFER_BYTES = 1024  # salts of 64 events
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1  # SQLite's; a client's cursor may name any number


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class SqliteLog:
    """An event log in one file. Made by `open`; every instance must be closed."""

    def __init__(
        self, readers: SqliteReaders, live: HeadNotifier, write_side: SqliteWriter | None, notifier: Notifier | None
    ) -> None:
        self._readers = readers
        self._live = live
        self._writer = write_side
        self._head_poller = None if notifier is None or write_side is None else HeadPoller(live, readers, notifier)
        self._closed: asyncio.Task[None] | None = None
        self._gate: EventTypeGate | None = None

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
        notifier: Notifier | None = None,
        other_nodes: OtherNodes | None = None,
        work: WritingCommand | None = None,
    ) -> "SqliteLog":
        """Open the log in `path`, created if missing.

        With `read_only` no event and no lock is written, so that offline commands work beside a running server and
        on a read-only copy; `head` is then the end of the log at this moment. `clock` gives microseconds, UTC;
        `random_bytes` the salts, absent: the system. With `wakeups` other processes append to the file, too, all of
        them through such a log; `other_nodes` knows what those can read. A log that a command has not finished is
        opened only for it, as `work`.
        Raises LogUnusable (of which LogInUse is one), which says what to do about it.
        """
        options = options or LogOptions()
        database = await asyncio.to_thread(database_file, Path(path), read_only=read_only)
        readers, side = SqliteReaders(database, options), None
        try:
            if read_only:
                live = await _read_only_head(database, options, work)
            else:
                side = SqliteWriter(database, options, (clock, random_bytes or _buffered_random_bytes()), notifier)
                side.store.work = work
                live = await side.open(observe or NoObserver())
            await readers.open()
        except BaseException as error:
            await _release(readers, side)
            if isinstance(error, sqlite3.Error):
                raise LogUnusable(explain(error, database) or f"database {database}: {error}") from error
            raise
        log = cls(readers, live, side, notifier)
        if other_nodes is not None:
            log._gate = EventTypeGate(other_nodes, observe or NoObserver())
        if log._head_poller is not None:
            log._head_poller.start()
        return log

    @property
    def failure(self) -> BaseException | None:
        """The last exception in the writer that should have been impossible; it refused one batch."""
        return None if self._writer is None else self._writer.failure

    @property
    def damage(self) -> str | None:
        """As EventLog.damage."""
        store = None if self._writer is None else self._writer.store
        return self._readers.damage or (None if store is None else store.damage or store.missing_file)

    @property
    def erasure_pending(self) -> bool:
        """Whether a reader in another program still keeps erased content in the write-ahead log."""
        return self._writer is not None and not self._writer.store.wal_clean.is_set()

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.append. Raises ValueError for text that is no Unicode or more events than a batch may hold."""
        side = self._require_writer()
        if self._gate is not None:
            await self._gate.admit(events)
        return await side.record(events, AppendContext(stream_id, expected_version, metadata, side.clock()))

    async def erase(
        self, stream_id: str, expected_version: int, event: Event, metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.erase. When another program reads the file for longer than `erase_wait_s` it returns all the
        same (the event is recorded, no query shows the content); `erasure_pending` is then true until that reader
        has gone.
        """
        if event_type(event) not in ERASURE_TYPES:
            raise ValueError(f"{event_type(event)} does not explain why content is gone")
        side = self._require_writer()
        if self._gate is not None:
            await self._gate.admit([event])
        recorded = await side.record(
            [event], AppendContext(stream_id, expected_version, metadata, side.clock(), erases=True)
        )
        await side.erased()
        return recorded

    async def finish_erasure(self, stream_id: str, version: int) -> None:
        """As EventLog.finish_erasure, which `erasure_pending` tells of as `erase` does."""
        side = self._require_writer()
        await check_erasure_explained(self, stream_id, version)
        await side.finish_erasure(stream_id, version)
        await side.erased()

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        """As EventLog.read."""
        span = _span(after, limit)
        return await stream_events(self._readers, stream_id, span, backwards=backwards, bytes_max=bytes_max)

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        """As EventLog.read_all."""
        return await all_events(self._readers, _span(after, limit))

    async def event_headers(self, *, after: int = 0, limit: int) -> list[EventHeader]:
        """As EventLog.outlines."""
        return await event_headers(self._readers, _span(after, limit))

    async def read_at(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """As EventLog.read_at."""
        return await events_at(self._readers, [place for place in positions if 0 < place <= _INTEGER_MAX])

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """As EventLog.sizes."""
        return await sizes_at(self._readers, [place for place in positions if 0 < place <= _INTEGER_MAX])

    async def rows(self, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        """As EventLog.rows."""
        return await stored_rows(self._readers, _span(after, limit), bytes_max)

    async def scan_rows(self, take: Callable[[Iterator[RawColumns]], T], *, after: int = 0, limit: int) -> T:
        """As events.integrity.chain_verifier.PassesRows."""
        return await scan_raw_rows(self._readers, take, _span(after, limit))

    async def stream_rows(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None
    ) -> list[StoredRow]:
        """As EventLog.stream_rows."""
        return await stored_stream(self._readers, stream_id, _span(after, limit), bytes_max)

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """As EventLog.snapshot."""
        return self._readers.snapshot()

    def head(self) -> Head:
        """As EventLog.head."""
        return self._live.current

    async def latest(self) -> Head:
        """As EventLog.latest."""
        return self._live.current if self._head_poller is None else await self._head_poller.latest()

    @property
    def is_shared(self) -> bool:
        """As EventLog.is_shared."""
        return self._head_poller is not None

    async def check_writable(self) -> None:
        """As EventLog.check_writable."""
        await self._require_writer().probe()

    async def wait(self, position: int) -> Head:
        """As EventLog.wait. Raises LogUnavailable when the log closes first."""
        return await self._live.wait(position)

    async def close(self) -> None:
        """As EventLog.close. A second call waits for the first."""
        if self._writer is not None:
            self._writer.refuse()
        if self._closed is None:
            self._closed = asyncio.create_task(self._release(), name="log-close")
        await asyncio.shield(self._closed)

    async def _release(self) -> None:
        if self._head_poller is not None:
            await self._head_poller.close()
        await _release(self._readers, self._writer)

    def _require_writer(self) -> SqliteWriter:
        side = self._writer
        if side is None:
            raise LogUnavailable("the log was opened for reading only")
        damage = self._readers.damage or side.store.damage
        if damage is not None:
            raise LogStopped(damage)
        return side


def _buffered_random_bytes() -> Callable[[int], bytes]:
    """Random bytes of the system, drawn in advance: asking it costs as much for a thousand as for sixteen."""
    drawn = io.BytesIO()

    def take(size: int) -> bytes:
        nonlocal drawn
        taken = drawn.read(size)
        if len(taken) < size:
            drawn = io.BytesIO(os.urandom(max(size, RANDOM_BUFFER_BYTES)))
            taken = drawn.read(size)
        return taken

    return take


async def _release(readers: SqliteReaders, side: SqliteWriter | None) -> None:
    try:
        if side is not None:
            await side.stop()
    finally:
        try:
            await readers.close()
        finally:
            if side is not None:
                await side.close()  # last: only then can SQLite remove its write-ahead log


async def _read_only_head(database: Path, options: LogOptions, work: WritingCommand | None) -> HeadNotifier:
    """The head of a log that is only read, which for it never moves."""
    connection = await connect_reader(database, options)
    try:
        if await check_format(connection, database, work):
            raise LogUnusable(f"database {database} is empty: there is no log in it")
        rows = await connection.execute_fetchall("SELECT position, digest FROM events ORDER BY position DESC LIMIT 1")
        live = HeadNotifier(next((Head(*row) for row in rows), Head(0, GENESIS)))
    finally:
        await connection.close()
    live.close("the log was opened for reading only")
    return live


def _span(after: int, limit: int) -> tuple[int | float, int]:
    if limit < 1:  # SQLite takes a negative limit for none
        raise ValueError("limit must be at least 1")
    below = after if after >= _INTEGER_MIN else -math.inf  # below all: even a row at the lowest integer is after it
    return min(below, _INTEGER_MAX), min(limit, _INTEGER_MAX)
