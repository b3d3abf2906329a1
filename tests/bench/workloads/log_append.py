"""Appends through the log, and the same rows through aiosqlite alone: the floor that no log on SQLite gets below.

The floor has the log's table with its columns, checks and UNIQUE index, but no trigger and no chain; one connection,
in autocommit, WAL, synchronous=FULL; one task that writes all rows that wait with one INSERT, as the log's writer does.
"""

import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiosqlite
from msgspec import Struct

from events.catalogue import Event, MessagePosted
from events.codec import encode, encode_metadata
from events.integrity.hash_chain import commit
from events.log import EventLog
from events.options import LogOptions
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import COLUMNS, TABLE
from projections.factory import create_runner
from tests.bench.record import turn

EVENT_BYTES = 1024
KINDS = 1000  # different events, made beforehand
BATCH_MAX = LogOptions().append_batch_max
WARM_EVENTS = 12_000  # until both write-ahead logs have been folded in: from then on their files grow no more
WARM_APPENDERS = 256
ASKED = Metadata(actor="bench", request_id="0" * 32)

WARM_TURNS = 250
TURN_APPENDERS = 16

Append = Callable[[int, int], Awaitable[object]]  # appender, how many appends it has made

Side = Callable[[Path], AbstractAsyncContextManager[Append]]


class Rate(Struct, frozen=True):
    """`cpu_us` is that of all threads of this process, for an event."""

    per_s: float
    cpu_us: float


def _events() -> list[Event]:
    words = "A conversation is a tree of messages, and every message of it is on the record. " * 20
    empty = len(encode(MessagePosted(str(uuid.uuid4()), None, "user", "")))
    return [MessagePosted(str(uuid.uuid4()), None, "user", words[: EVENT_BYTES - empty]) for _ in range(KINDS)]


EVENTS = _events()


class Floor:
    """A queue, and one task that writes what waits."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._waiting: list[tuple[tuple[object, ...], asyncio.Future[None]]] = []
        self._arrival = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(self._write())

    def append(self, row: tuple[object, ...]) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._waiting.append((row, future))
        self._arrival.set()
        return future

    async def _write(self) -> None:
        while True:
            if not self._waiting:
                self._arrival.clear()
                await self._arrival.wait()
            await asyncio.sleep(0)
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            places = ",".join(["(?,?,?,?,?,?,?,?,?,?,?)"] * len(batch))
            values = [value for row, _ in batch for value in row]
            await self._connection.execute_fetchall(f"INSERT INTO events ({COLUMNS}) VALUES {places}", values)
            for _, future in batch:
                future.set_result(None)


@asynccontextmanager
async def floor(folder: Path) -> AsyncIterator[Append]:
    connection = await aiosqlite.connect(folder / "floor.db", isolation_level=None)
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", TABLE):
        await connection.execute_fetchall(statement)
    salt, metadata = os.urandom(16), encode_metadata(ASKED)
    contents = [(data.decode(), salt, commit(salt, data), bytes(32)) for data in map(encode, EVENTS)]
    streams, positions = [str(uuid.uuid4()) for _ in range(WARM_APPENDERS)], iter(range(1, 1 << 40))
    writer = Floor(connection)

    def append(appender: int, number: int) -> Awaitable[None]:
        content, at_us = contents[(appender + number) % KINDS], time.time_ns() // 1000
        envelope = (next(positions), streams[appender], number + 1, "message_posted", 1, at_us, metadata)
        return writer.append((*envelope, *content))

    try:
        yield append
    finally:
        writer.task.cancel()
        await connection.close()


@asynccontextmanager
async def log(folder: Path) -> AsyncIterator[Append]:
    opened = await SqliteLog.open(folder / "log.db")
    try:
        yield through(opened, lambda place: [EVENTS[place % KINDS]])
    finally:
        await opened.close()


def through(opened: EventLog, events_of: Callable[[int], list[Event]]) -> Append:
    """Appends to one stream for each appender."""
    streams = [str(uuid.uuid4()) for _ in range(WARM_APPENDERS)]

    def append(appender: int, number: int) -> Awaitable[object]:
        events = events_of(appender + number)
        return opened.append(streams[appender], len(events) * number, events, ASKED)

    return append


def of_turns(place: int) -> list[Event]:
    """A message, and the start and the end of its reply."""
    _, events = turn(None)
    return [events[0], events[1], events[3]]


async def measure(open_side: Side, appenders: Sequence[int], seconds: float) -> dict[int, Rate]:
    """The rate of one side (`floor` or `log`) with each number of appenders, all on one fresh file."""
    made = [0] * WARM_APPENDERS
    with tempfile.TemporaryDirectory() as name:
        async with open_side(Path(name)) as append:
            await drive(append, made, WARM_APPENDERS, lambda count: count < WARM_EVENTS // WARM_APPENDERS)
            return {number: await drive(append, made, number, lasting(seconds)) for number in appenders}


def lasting(seconds: float) -> Callable[[int], bool]:
    end_s = time.perf_counter() + seconds
    return lambda _: time.perf_counter() < end_s


async def drive(append: Append, made: list[int], appenders: int, goes_on: Callable[[int], bool]) -> Rate:
    """Let `appenders` append, each its next one when its last is acknowledged; `made` counts the appends of each."""
    before, began_s, used_s = sum(made), time.perf_counter(), time.process_time()

    async def appending(appender: int) -> None:
        while goes_on(made[appender]):
            await append(appender, made[appender])
            made[appender] += 1

    await asyncio.gather(*(appending(appender) for appender in range(appenders)))
    total, seconds = sum(made) - before, time.perf_counter() - began_s
    return Rate(total / seconds, (time.process_time() - used_s) / total * 1e6)


async def turns(seconds: float, *, follow: bool) -> Rate:
    """16 appenders that append as chat turns do, 3 events at once; `follow`: the projections follow the log."""
    made = [0] * WARM_APPENDERS
    with tempfile.TemporaryDirectory() as name:
        opened = await SqliteLog.open(Path(name) / "log.db")
        runner = create_runner(Path(name) / "projections.db", opened) if follow else None
        try:
            if runner is not None:
                await runner.start()
            append = through(opened, of_turns)
            await drive(append, made, TURN_APPENDERS, lambda count: count < WARM_TURNS)
            return await drive(append, made, TURN_APPENDERS, lasting(seconds))
        finally:
            if runner is not None:
                await runner.stop()
            await opened.close()
