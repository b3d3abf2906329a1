"""The read side of a SQLite log: a few connections that cannot write, each query one hop to a connection's thread."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import starmap
from pathlib import Path
from typing import Any

import aiosqlite
from msgspec.structs import astuple

from events.codec import decode
from events.errors import LogUnavailable
from events.options import LogOptions
from events.record import RecordedEvent, StoredRow, decode_metadata
from events.sqlite_schema import DAMAGED, connect_reader, is_corrupt, primary_code, unavailable

POSITIONS_MAX = 500  # positions in one query

_EVENT = "position, stream_id, version, type, schema_version, recorded_at, metadata, data"

# Texts as bytes: one that is no UTF-8 must not stop the proof that finds it.
RAW_COLUMNS = (
    "position, CAST(stream_id AS BLOB), version, CAST(type AS BLOB), schema_version, recorded_at,"
    " CAST(metadata AS BLOB), CAST(data AS BLOB), salt, commitment, digest"
)

# What `stored_row` makes of RAW_COLUMNS where all texts are UTF-8, whatever types a forger gave the columns.
_TEXT_COLUMNS = (
    "position, ifnull(CAST(stream_id AS TEXT), ''), version, ifnull(CAST(type AS TEXT), ''), schema_version,"
    " recorded_at, ifnull(CAST(metadata AS TEXT), ''), CAST(data AS TEXT), salt, commitment, digest"
)


class SqliteReaders:
    """A pool of read connections. Whoever finds none free waits; a connection that failed is replaced."""

    def __init__(self, path: Path, options: LogOptions) -> None:
        self._path = path
        self._options = options
        self._free: asyncio.Queue[aiosqlite.Connection | None] = asyncio.Queue()
        self._open: set[aiosqlite.Connection] = set()
        self._closed = False
        self.damage: str | None = None

    async def open(self) -> None:
        """Open every connection. Raises as connect_reader; close afterwards all the same."""
        for _ in range(self._options.read_connections):
            self._free.put_nowait(await self._connect())

    async def rows(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of one query. Raises LogUnavailable when the file cannot be read or the log is closed."""
        try:
            async with self._connection() as connection:
                return list(await connection.execute_fetchall(query, parameters))  # type: ignore[arg-type]  # rows are tuples
        except sqlite3.Error as error:
            refusal = unavailable(error, self._path)
            if refusal is None:
                raise
            if is_corrupt(error):
                self.damage = str(refusal)
            raise refusal from error

    async def close(self) -> None:
        """Let the queries that run end, then close every connection."""
        self._closed = True
        for connection in list(self._open):
            await self._discard(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiosqlite.Connection]:
        if self._closed:
            raise LogUnavailable("the log is closed")
        connection = await self._free.get()
        try:
            if self._closed:
                raise LogUnavailable("the log is closed")
            if connection is None:
                connection = await self._connect()
            yield connection
        except sqlite3.Error as error:
            if connection is not None and primary_code(error) in DAMAGED:
                await self._discard(connection)
                connection = None
            raise
        finally:
            self._free.put_nowait(connection)

    async def _connect(self) -> aiosqlite.Connection:
        connection = await connect_reader(self._path, self._options)
        self._open.add(connection)
        if self._closed:  # while the file was being opened
            await self._discard(connection)
            raise LogUnavailable("the log is closed")
        return connection

    async def _discard(self, connection: aiosqlite.Connection) -> None:
        self._open.discard(connection)
        await connection.close()


async def stream_events(
    readers: SqliteReaders, stream_id: str, span: tuple[int | float, int], *, backwards: bool
) -> list[RecordedEvent]:
    """Events of one stream; `span` is (after, limit)."""
    order = "DESC" if backwards else "ASC"
    query = f"SELECT {_EVENT} FROM events WHERE stream_id = ? AND version > ? ORDER BY version {order} LIMIT ?"  # noqa: S608  constants
    return [recorded(row) for row in await readers.rows(query, (stream_id, *span))]


async def all_events(readers: SqliteReaders, span: tuple[int | float, int]) -> list[RecordedEvent]:
    """Events of every stream in order; `span` is (after, limit)."""
    query = f"SELECT {_EVENT} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608  constants
    return [recorded(row) for row in await readers.rows(query, span)]


async def events_at(readers: SqliteReaders, positions: Sequence[int]) -> dict[int, RecordedEvent]:
    """The events at `positions`, whatever their number: asked for in pieces."""
    found: dict[int, RecordedEvent] = {}
    for start in range(0, len(positions), POSITIONS_MAX):
        asked = positions[start : start + POSITIONS_MAX]
        query = f"SELECT {_EVENT} FROM events WHERE position IN ({','.join('?' * len(asked))})"  # noqa: S608  placeholders
        for row in await readers.rows(query, asked):
            found[row[0]] = recorded(row)
    return found


async def stored_rows(readers: SqliteReaders, span: tuple[int | float, int]) -> list[StoredRow]:
    """Rows as they lie in the file, however damaged their texts; `span` is (after, limit)."""
    return list(starmap(StoredRow, await row_tuples(readers, span)))


async def stored_stream(readers: SqliteReaders, stream_id: str, span: tuple[int | float, int]) -> list[StoredRow]:
    """As `stored_rows`, of one stream; `span` is (after, limit)."""
    which = "WHERE stream_id = ? AND version > ? ORDER BY version LIMIT ?"
    return list(starmap(StoredRow, await _columns(readers, which, (stream_id, *span))))


async def row_tuples(readers: SqliteReaders, span: tuple[int | float, int]) -> list[tuple[Any, ...]]:
    """As `stored_rows`, each row as a tuple of StoredRow's fields."""
    return await _columns(readers, "WHERE position > ? ORDER BY position LIMIT ?", span)


async def _columns(readers: SqliteReaders, which: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Texts made by SQLite's module itself cost half of those decoded here; it gives up at one that is no UTF-8."""
    try:
        return await readers.rows(f"SELECT {_TEXT_COLUMNS} FROM events {which}", parameters)  # noqa: S608  constants
    except sqlite3.OperationalError as error:
        if primary_code(error):
            raise
        raw = await readers.rows(f"SELECT {RAW_COLUMNS} FROM events {which}", parameters)  # noqa: S608  constants
        return [astuple(stored_row(row)) for row in raw]


def stored_row(row: tuple[Any, ...]) -> StoredRow:
    """A row of `RAW_COLUMNS`."""
    position, stream_id, version, event_type, schema_version, recorded_at_us, metadata, data, *proof = row
    return StoredRow(
        position,
        _text(stream_id),
        version,
        _text(event_type),
        schema_version,
        recorded_at_us,
        _text(metadata),
        None if data is None else _text(data),
        *proof,
    )


def _text(stored: bytes | None) -> str:
    return "" if stored is None else stored.decode(errors="surrogateescape")


def recorded(row: tuple[Any, ...]) -> RecordedEvent:
    """A row of `_EVENT` columns, decoded. Raises UnknownEvent or ValueError as events.codec does."""
    position, stream_id, version, event_type, schema_version, recorded_at_us, metadata, data = row
    return RecordedEvent(
        position=position,
        stream_id=stream_id,
        version=version,
        type=event_type,
        schema_version=schema_version,
        recorded_at_us=recorded_at_us,
        metadata=decode_metadata(metadata),
        event=None if data is None else decode(event_type, schema_version, data),
    )
