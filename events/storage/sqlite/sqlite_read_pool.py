"""A connection pool for reading a SQLite log, and snapshots on connections of their own."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiosqlite

from events.errors import LogUnavailable
from events.options import LogOptions
from events.record import Head, StoredRow, stored_row
from events.storage.sqlite.batched_connection import BATCH_MAX, Call, CallBatcher, run_in_thread
from events.storage.sqlite.sqlite_errors import is_connection_error, is_corrupt, unavailable
from events.storage.sqlite.sqlite_media_reader import SqliteMediaReader
from events.storage.sqlite.sqlite_schema import RAW_COLUMNS, connect_reader, read_head

T = TypeVar("T")

_ROWS = f"SELECT {RAW_COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608  constants


class SqliteReadPool:
    """A few connections that cannot write. The first one is for short reads, which it runs in batches; long reads take
    turns on the others, so that a read of ten rows never waits for one of a thousand. A connection that failed is
    replaced.
    """

    def __init__(self, path: Path, options: LogOptions) -> None:
        self._path = path
        self._options = options
        self._slots = [_Slot() for _ in range(options.read_connections)]
        self._closed = False
        self.damage: str | None = None

    async def open(self) -> None:
        """Open every connection. Raises as connect_reader; must be closed then, too."""
        for slot in self._slots:
            await self._open_slot(slot)

    async def run(self, call: Call[T], *, is_long: bool = False) -> T:
        """The result of `call` with a connection, in its thread. Raises LogUnavailable when the file cannot be read or
        the log is closed, LogBusy when too many calls wait.
        """
        slot = min(self._slots[1:] or self._slots, key=_calls_waiting) if is_long else self._slots[0]
        try:
            return await self._run_on(slot, call)
        except sqlite3.Error as error:
            refusal = unavailable(error, self._path)
            if refusal is None:
                raise
            if is_corrupt(error):
                self.damage = str(refusal)
            raise refusal from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["SqliteSnapshot"]:
        """On a connection of its own. Raises LogUnavailable."""
        try:
            async with open_snapshot(self._path, self._options) as opened:
                yield opened
        except sqlite3.Error as error:
            raise unavailable(error, self._path) or error from error

    async def close(self) -> None:
        """Finish the calls that wait, then close every connection."""
        self._closed = True
        for slot in self._slots:
            async with slot.opening:
                await _discard(slot, slot.batcher)

    async def _run_on(self, slot: "_Slot", call: Call[T]) -> T:
        slot.waiting += 1
        batcher = None
        try:
            batcher = slot.batcher or await self._open_slot(slot)
            if self._closed:
                raise LogUnavailable("the log is closed")
            return await batcher.run(call)
        except sqlite3.Error as error:
            if is_connection_error(error):
                await _discard(slot, batcher)
            raise
        finally:
            slot.waiting -= 1

    async def _open_slot(self, slot: "_Slot") -> CallBatcher:
        async with slot.opening:
            if self._closed:
                raise LogUnavailable("the log is closed")
            if slot.batcher is None:
                # Long calls are not batched: the first would wait for all the others.
                batch_max = BATCH_MAX if slot is self._slots[0] else 1
                slot.batcher = CallBatcher(await connect_reader(self._path, self._options), batch_max)
            return slot.batcher


class _Slot:
    """One connection of the pool. `batcher` is None until it is opened, and after it has failed."""

    def __init__(self) -> None:
        self.batcher: CallBatcher | None = None
        self.opening = asyncio.Lock()
        self.waiting = 0  # calls


def _calls_waiting(slot: _Slot) -> int:
    return slot.waiting


async def _discard(slot: _Slot, batcher: CallBatcher | None) -> None:
    if batcher is not None and slot.batcher is batcher:  # else another call has replaced it already
        slot.batcher = None
        await batcher.close()


class SqliteSnapshot:
    """A log as of one moment. Implements events.log.Snapshot. `connection` is in a read transaction."""

    def __init__(self, connection: aiosqlite.Connection, head: Head) -> None:
        self.connection = connection
        self.head = head
        self.media = SqliteMediaReader(partial(run_in_thread, connection))

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]:
        """As Snapshot.rows, but for errors: raises sqlite3.Error."""
        return [stored_row(tuple(row)) for row in await self.connection.execute_fetchall(_ROWS, (after, limit))]


@asynccontextmanager
async def open_snapshot(path: Path, options: LogOptions) -> AsyncIterator[SqliteSnapshot]:
    """One read transaction on a connection of its own. Raises sqlite3.Error."""
    connection = await connect_reader(path, options)
    try:
        await connection.execute_fetchall("BEGIN")
        yield SqliteSnapshot(connection, await run_in_thread(connection, read_head))  # the first read fixes the moment
    finally:
        await connection.close()
