"""The read side of a SQLite log: a few connections that cannot write, and what is asked of them."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

from events.codec import decode_recorded
from events.errors import LogUnavailable
from events.log import Snapshot
from events.options import LogOptions
from events.record import EventHeader, RawColumns, RecordedEvent, StoredRow, decode_metadata, stored_row
from events.storage.sqlite.batched_connection import GROUP_MAX, CallBatcher, Question
from events.storage.sqlite.sqlite_schema import (
    DAMAGED,
    RAW_COLUMNS,
    connect_reader,
    is_corrupt,
    primary_code,
    unavailable,
)
from events.storage.sqlite.sqlite_snapshot import open_snapshot

T = TypeVar("T")

POSITIONS_MAX = 500  # positions in one query
SHORT_ROWS = 200  # a query for more is a long one

_DATA = 7  # the column of the content, in _EVENT and in _TEXT_COLUMNS
_EVENT = "position, stream_id, version, type, schema_version, recorded_at, metadata, data"

_FROM = "WHERE position > ? ORDER BY position"

# What `stored_row` makes of RAW_COLUMNS where all texts are UTF-8, whatever types a forger gave the columns.
_TEXT_COLUMNS = (
    "position, ifnull(CAST(stream_id AS TEXT), ''), version, ifnull(CAST(type AS TEXT), ''), schema_version,"
    " recorded_at, ifnull(CAST(metadata AS TEXT), ''), CAST(data AS TEXT), salt, commitment, digest"
)


class SqliteReaders:
    """A few connections. The first is for short reads, which share its hops; long ones take turns on the others, so
    that nobody who wants ten rows waits for a thousand. A connection that failed is replaced.
    """

    def __init__(self, path: Path, options: LogOptions) -> None:
        self._path = path
        self._options = options
        self._slots = [_Slot() for _ in range(options.read_connections)]
        self._closed = False
        self.damage: str | None = None

    async def open(self) -> None:
        """Open every connection. Raises as connect_reader; close afterwards all the same."""
        for slot in self._slots:
            await self._open_batcher(slot)

    async def rows(
        self, query: str, parameters: Sequence[Any], *, is_long: bool = False, bytes_max: int | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of one query; with `bytes_max` a query of events, and the first rows only. Raises as `ask`."""
        return await self.ask(lambda connection: _fetch(connection, query, parameters, bytes_max), is_long=is_long)

    async def ask(self, question: Question[T], *, is_long: bool = False) -> T:
        """What `question` makes of a connection, in its thread. Raises LogUnavailable when the file cannot be read or
        the log is closed, LogBusy when too many ask.
        """
        slot = min(self._slots[1:] or self._slots, key=_calls_waiting) if is_long else self._slots[0]
        try:
            return await self._answer(slot, question)
        except sqlite3.Error as error:
            refusal = unavailable(error, self._path)
            if refusal is None:
                raise
            if is_corrupt(error):
                self.damage = str(refusal)
            raise refusal from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """On a connection of its own. Raises LogUnavailable."""
        try:
            async with open_snapshot(self._path, self._options) as opened:
                yield opened
        except sqlite3.Error as error:
            raise unavailable(error, self._path) or error from error

    async def close(self) -> None:
        """Let the queries that were asked end, then close every connection."""
        self._closed = True
        for slot in self._slots:
            async with slot.opening:
                await _discard(slot, slot.batcher)

    async def _answer(self, slot: "_Slot", question: Question[T]) -> T:
        slot.asking += 1
        batcher = None
        try:
            batcher = slot.batcher or await self._open_batcher(slot)
            if self._closed:
                raise LogUnavailable("the log is closed")
            return await batcher.ask(question)
        except sqlite3.Error as error:
            if primary_code(error) in DAMAGED:
                await _discard(slot, batcher)
            raise
        finally:
            slot.asking -= 1

    async def _open_batcher(self, slot: "_Slot") -> CallBatcher:
        async with slot.opening:
            if self._closed:
                raise LogUnavailable("the log is closed")
            if slot.batcher is None:
                # Long questions have a hop each: whoever asked first is not to wait for the others.
                group_max = GROUP_MAX if slot is self._slots[0] else 1
                slot.batcher = CallBatcher(await connect_reader(self._path, self._options), group_max)
            return slot.batcher


class _Slot:
    """One connection's place. `hop` is None until it is opened, and after it has failed."""

    def __init__(self) -> None:
        self.batcher: CallBatcher | None = None
        self.opening = asyncio.Lock()
        self.asking = 0


def _calls_waiting(slot: _Slot) -> int:
    return slot.asking


async def _discard(slot: _Slot, batcher: CallBatcher | None) -> None:
    if batcher is not None and slot.batcher is batcher:  # the first of those who met the failure
        slot.batcher = None
        await batcher.close()


def _fetch(
    connection: sqlite3.Connection, query: str, parameters: Sequence[Any], bytes_max: int | None
) -> list[tuple[Any, ...]]:
    with closing(connection.execute(query, parameters)) as rows:  # a cursor that is left open keeps its snapshot
        return rows.fetchall() if bytes_max is None else list(_until_bytes(rows, bytes_max))


def _until_bytes(rows: Iterable[tuple[Any, ...]], bytes_max: int) -> Iterator[tuple[Any, ...]]:
    """Rows until their contents come to `bytes_max`: the row that reaches it is the last one."""
    taken = 0
    for row in rows:
        yield row
        taken += _size(row[_DATA])
        if taken >= bytes_max:
            return


def _size(data: object) -> int:
    """Bytes in UTF-8, nearly: to encode every text only to measure it would cost as much as to read it."""
    if isinstance(data, str):
        return len(data) if data.isascii() else 3 * len(data)
    return len(data) if isinstance(data, bytes) else 0


async def stream_events(
    readers: SqliteReaders,
    stream_id: str,
    span: tuple[int | float, int],
    *,
    backwards: bool,
    bytes_max: int | None = None,
) -> list[RecordedEvent]:
    """Events of one stream; `span` is (after, limit)."""
    order = "DESC" if backwards else "ASC"
    query = f"SELECT {_EVENT} FROM events WHERE stream_id = ? AND version > ? ORDER BY version {order} LIMIT ?"  # noqa: S608  constants
    rows = await readers.rows(query, (stream_id, *span), is_long=_is_long(span), bytes_max=bytes_max)
    return [recorded(row) for row in rows]


async def all_events(readers: SqliteReaders, span: tuple[int | float, int]) -> list[RecordedEvent]:
    """Events of every stream in order; `span` is (after, limit)."""
    query = f"SELECT {_EVENT} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608  constants
    return [recorded(row) for row in await readers.rows(query, span, is_long=_is_long(span))]


async def event_headers(readers: SqliteReaders, span: tuple[int | float, int]) -> list[EventHeader]:
    """Events of every stream in order, without contents; `span` is (after, limit)."""
    query = "SELECT position, stream_id, version, type FROM events WHERE position > ? ORDER BY position LIMIT ?"
    return list(starmap(EventHeader, await readers.rows(query, span, is_long=_is_long(span))))


async def events_at(readers: SqliteReaders, positions: Sequence[int]) -> dict[int, RecordedEvent]:
    """The events at `positions`, whatever their number: asked for in pieces."""
    found: dict[int, RecordedEvent] = {}
    for start in range(0, len(positions), POSITIONS_MAX):
        asked = positions[start : start + POSITIONS_MAX]
        query = f"SELECT {_EVENT} FROM events WHERE position IN ({','.join('?' * len(asked))})"  # noqa: S608  placeholders
        for row in await readers.rows(query, asked):
            found[row[0]] = recorded(row)
    return found


async def sizes_at(readers: SqliteReaders, positions: Sequence[int]) -> dict[int, int]:
    """The bytes of content at `positions`, whatever their number: asked for in pieces."""
    found: dict[int, int] = {}
    for start in range(0, len(positions), POSITIONS_MAX):
        asked = positions[start : start + POSITIONS_MAX]
        query = (
            "SELECT position, ifnull(length(CAST(data AS BLOB)), 0) FROM events"  # noqa: S608  placeholders
            f" WHERE position IN ({','.join('?' * len(asked))})"
        )
        found.update(await readers.rows(query, asked, is_long=True))  # SQLite reads the texts to measure them
    return found


async def stored_rows(
    readers: SqliteReaders, span: tuple[int | float, int], bytes_max: int | None = None
) -> list[StoredRow]:
    """Rows as they lie in the file, however damaged their texts; `span` is (after, limit)."""
    return await _stored(readers, _FROM, span, bytes_max)


async def stored_stream(
    readers: SqliteReaders, stream_id: str, span: tuple[int | float, int], bytes_max: int | None = None
) -> list[StoredRow]:
    """As `stored_rows`, of one stream."""
    which = "WHERE stream_id = ? AND version > ? ORDER BY version"
    return await _stored(readers, which, (stream_id, *span), bytes_max)


async def scan_raw_rows(
    readers: SqliteReaders, take: Callable[[Iterator[RawColumns]], T], span: tuple[int | float, int]
) -> T:
    """What `take` makes of the rows of `stored_rows`, raw, in the thread that reads them."""

    def question(connection: sqlite3.Connection) -> T:
        query = f"SELECT {RAW_COLUMNS} FROM events {_FROM} LIMIT ?"  # noqa: S608  constants
        with closing(connection.execute(query, span)) as rows:  # or a snapshot would stay open
            return take(rows)

    return await readers.ask(question, is_long=_is_long(span))


async def _stored(
    readers: SqliteReaders, which: str, values: tuple[Any, ...], bytes_max: int | None
) -> list[StoredRow]:
    """Texts made by SQLite's module itself cost half of those decoded here, but it gives up at one that is no UTF-8."""

    def question(connection: sqlite3.Connection) -> list[StoredRow]:
        def select(columns: str) -> list[Any]:
            return _fetch(connection, f"SELECT {columns} FROM events {which} LIMIT ?", values, bytes_max)  # noqa: S608  constants

        try:
            return list(starmap(StoredRow, select(_TEXT_COLUMNS)))
        except sqlite3.OperationalError as error:
            if primary_code(error):
                raise
        return list(map(stored_row, select(RAW_COLUMNS)))

    return await readers.ask(question, is_long=_is_long(values))


def _is_long(values: tuple[Any, ...]) -> bool:
    """Whether a query may bring many rows; its limit is the last of its values."""
    limit: int = values[-1]
    return limit > SHORT_ROWS


def recorded(row: tuple[Any, ...]) -> RecordedEvent:
    """A row of `_EVENT` columns, decoded. Raises UnknownEvent or ValueError as events.codec does."""
    position, stream_id, version, event_type, schema_version, recorded_at_us, metadata, data = row
    told = decode_metadata(metadata)
    return RecordedEvent(
        position=position,
        stream_id=stream_id,
        version=version,
        type=event_type,
        schema_version=schema_version,
        recorded_at_us=recorded_at_us,
        metadata=told,
        event=decode_recorded(event_type, schema_version, data, told),
    )
