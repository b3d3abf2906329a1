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

from events.batch import Origin
from events.catalogue import EXPLAINS_ERASURE, Event
from events.chain import GENESIS
from events.codec import event_type
from events.compatibility import EventTypeGate, OtherNodes
from events.erasures import check_explained
from events.errors import LogStopped, LogUnavailable, LogUnusable
from events.live_head import LiveHead
from events.lock import database_file
from events.options import LogOptions
from events.record import Head, Metadata, Outline, RawColumns, RecordedEvent, StoredRow
from events.shared_head import SharedHead
from events.snapshot import Snapshot
from events.sqlite_readers import (
    SqliteReaders,
    all_events,
    events_at,
    outlines,
    passed_rows,
    sizes_at,
    stored_rows,
    stored_stream,
    stream_events,
)
from events.sqlite_schema import check_format, connect_reader, explain
from events.unfinished import Work
from events.wakeups import Wakeups
from events.write_side import WriteSide
from events.writer import LogObserver, NoObserver

__all__ = ["LogObserver", "LogOptions", "SqliteLog"]

T = TypeVar("T")

DRAWN_BYTES = 1024  # salts of 64 events
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1  # SQLite's; a client's cursor may name any number


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class SqliteLog:
    """An event log in one file. Made by `open`; every instance must be closed."""

    def __init__(
        self, readers: SqliteReaders, live: LiveHead, write_side: WriteSide | None, wakeups: Wakeups | None
    ) -> None:
        self._readers = readers
        self._live = live
        self._write_side = write_side
        self._shared = None if wakeups is None or write_side is None else SharedHead(live, readers, wakeups)
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
        wakeups: Wakeups | None = None,
        other_nodes: OtherNodes | None = None,
        work: Work | None = None,
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
                live = await _end_of(database, options, work)
            else:
                side = WriteSide(database, options, (clock, random_bytes or _drawn()), wakeups)
                side.store.work = work
                live = await side.open(observe or NoObserver())
            await readers.open()
        except BaseException as error:
            await _release(readers, side)
            if isinstance(error, sqlite3.Error):
                raise LogUnusable(explain(error, database) or f"database {database}: {error}") from error
            raise
        log = cls(readers, live, side, wakeups)
        if other_nodes is not None:
            log._gate = EventTypeGate(other_nodes, observe or NoObserver())
        if log._shared is not None:
            log._shared.start()
        return log

    @property
    def failure(self) -> BaseException | None:
        """The last exception in the writer that should have been impossible; it refused one batch."""
        return None if self._write_side is None else self._write_side.failure

    @property
    def damage(self) -> str | None:
        """As EventLog.damage."""
        store = None if self._write_side is None else self._write_side.store
        return self._readers.damage or (None if store is None else store.damage or store.misplaced)

    @property
    def erasure_pending(self) -> bool:
        """Whether a reader in another program still keeps erased content in the write-ahead log."""
        return self._write_side is not None and not self._write_side.store.wal_clean.is_set()

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.append. Raises ValueError for text that is no Unicode or more events than a batch may hold."""
        side = self._writing()
        if self._gate is not None:
            await self._gate.admit(events)
        return await side.record(events, Origin(stream_id, expected_version, metadata, side.clock()))

    async def erase(
        self, stream_id: str, expected_version: int, event: Event, metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """As EventLog.erase. When another program reads the file for longer than `erase_wait_s` it returns all the
        same (the event is recorded, no query shows the content); `erasure_pending` is then true until that reader
        has gone.
        """
        if event_type(event) not in EXPLAINS_ERASURE:
            raise ValueError(f"{event_type(event)} does not explain why content is gone")
        side = self._writing()
        if self._gate is not None:
            await self._gate.admit([event])
        recorded = await side.record([event], Origin(stream_id, expected_version, metadata, side.clock(), erases=True))
        await side.erased()
        return recorded

    async def finish_erasure(self, stream_id: str, version: int) -> None:
        """As EventLog.finish_erasure, which `erasure_pending` tells of as `erase` does."""
        side = self._writing()
        await check_explained(self, stream_id, version)
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

    async def outlines(self, *, after: int = 0, limit: int) -> list[Outline]:
        """As EventLog.outlines."""
        return await outlines(self._readers, _span(after, limit))

    async def read_at(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """As EventLog.read_at."""
        return await events_at(self._readers, [place for place in positions if 0 < place <= _INTEGER_MAX])

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """As EventLog.sizes."""
        return await sizes_at(self._readers, [place for place in positions if 0 < place <= _INTEGER_MAX])

    async def rows(self, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        """As EventLog.rows."""
        return await stored_rows(self._readers, _span(after, limit), bytes_max)

    async def pass_rows(self, take: Callable[[Iterator[RawColumns]], T], *, after: int = 0, limit: int) -> T:
        """As events.verify.PassesRows."""
        return await passed_rows(self._readers, take, _span(after, limit))

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
        return self._live.current if self._shared is None else await self._shared.latest()

    @property
    def is_shared(self) -> bool:
        """As EventLog.is_shared."""
        return self._shared is not None

    async def check_writable(self) -> None:
        """As EventLog.check_writable."""
        await self._writing().probe()

    async def wait(self, position: int) -> Head:
        """As EventLog.wait. Raises LogUnavailable when the log closes first."""
        return await self._live.wait(position)

    async def close(self) -> None:
        """As EventLog.close. A second call waits for the first."""
        if self._write_side is not None:
            self._write_side.refuse()
        if self._closed is None:
            self._closed = asyncio.create_task(self._release(), name="log-close")
        await asyncio.shield(self._closed)

    async def _release(self) -> None:
        if self._shared is not None:
            await self._shared.close()
        await _release(self._readers, self._write_side)

    def _writing(self) -> WriteSide:
        side = self._write_side
        if side is None:
            raise LogUnavailable("the log was opened for reading only")
        damage = self._readers.damage or side.store.damage
        if damage is not None:
            raise LogStopped(damage)
        return side


def _drawn() -> Callable[[int], bytes]:
    """Random bytes of the system, drawn in advance: asking it costs as much for a thousand as for sixteen."""
    drawn = io.BytesIO()

    def take(size: int) -> bytes:
        nonlocal drawn
        taken = drawn.read(size)
        if len(taken) < size:
            drawn = io.BytesIO(os.urandom(max(size, DRAWN_BYTES)))
            taken = drawn.read(size)
        return taken

    return take


async def _release(readers: SqliteReaders, side: WriteSide | None) -> None:
    try:
        if side is not None:
            await side.stop()
    finally:
        try:
            await readers.close()
        finally:
            if side is not None:
                await side.close()  # last: only then can SQLite remove its write-ahead log


async def _end_of(database: Path, options: LogOptions, work: Work | None) -> LiveHead:
    """The head of a log that is only read, which for it never moves."""
    connection = await connect_reader(database, options)
    try:
        if await check_format(connection, database, work):
            raise LogUnusable(f"database {database} is empty: there is no log in it")
        rows = await connection.execute_fetchall("SELECT position, digest FROM events ORDER BY position DESC LIMIT 1")
        live = LiveHead(next((Head(*row) for row in rows), Head(0, GENESIS)))
    finally:
        await connection.close()
    live.close("the log was opened for reading only")
    return live


def _span(after: int, limit: int) -> tuple[int | float, int]:
    if limit < 1:  # SQLite takes a negative limit for none
        raise ValueError("limit must be at least 1")
    below = after if after >= _INTEGER_MIN else -math.inf  # below all: even a row at the lowest integer is after it
    return min(below, _INTEGER_MAX), min(limit, _INTEGER_MAX)
