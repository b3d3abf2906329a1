"""The read side of a log in PostgreSQL: a few connections, and what is asked of them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import starmap
from typing import Any, TypeVar

import asyncpg

from events.codec import decode_recorded
from events.errors import LogBusy, LogUnavailable
from events.record import EventHeader, RawColumns, RecordedEvent, StoredRow, decode_metadata, raw_columns
from events.storage.postgres.postgres_connection import (
    ANSWER_TIMEOUT_S,
    FAILURES,
    Database,
    backoff_delays,
    close_gracefully,
    explain,
    is_damage,
    is_passing,
)
from events.storage.postgres.postgres_schema import COLUMNS

T = TypeVar("T")

SHORT_ROWS = 200  # a query for more is a long one
WAITING_MAX = 10_000  # reads that wait for a connection; the next one is refused with LogBusy
POSITIONS_MAX = 500  # positions in one query

_EVENT = ", ".join(COLUMNS[:8])
_ALL = ", ".join(COLUMNS)
_STREAM = f"SELECT {_EVENT} FROM events WHERE stream_id = $1 AND version > $2 ORDER BY version"  # noqa: S608  constants
_EVERY = f"SELECT {_EVENT} FROM events WHERE position > $1 ORDER BY position LIMIT $2"  # noqa: S608  constants
_AT = f"SELECT {_EVENT} FROM events WHERE position = ANY($1::bigint[])"  # noqa: S608  constants
_SIZES = "SELECT position, coalesce(octet_length(data), 0) FROM events WHERE position = ANY($1::bigint[])"
_HEADERS = "SELECT position, stream_id, version, type FROM events WHERE position > $1 ORDER BY position LIMIT $2"
_ROWS = f"SELECT {_ALL} FROM events WHERE position > $1 ORDER BY position LIMIT $2"  # noqa: S608  constants
_STREAM_ROWS = f"SELECT {_ALL} FROM events WHERE stream_id = $1 AND version > $2 ORDER BY version LIMIT $3"  # noqa: S608  constants

Span = tuple[int, int]  # after, limit


class PostgresReaders:
    """At most `read_connections`, made when they are needed. Long reads take turns on all of them but one, so that
    nobody who wants ten rows waits for a thousand. A read whose connection is lost is asked again.
    """

    def __init__(self, database: Database) -> None:
        number = database.options.read_connections
        self.damage: str | None = None
        self._database = database
        self._idle: list[asyncpg.Connection] = []
        self._busy: set[asyncpg.Connection] = set()
        self._any = asyncio.Semaphore(number)
        self._long = asyncio.Semaphore(max(1, number - 1))
        self._asking = 0
        self._closed = False

    async def rows(self, query: str, *values: Any, is_long: bool = False) -> list[Any]:
        """The rows of one query. Raises LogUnavailable when the database cannot be read or the log is closed, LogBusy
        when too many ask.
        """
        if self._closed:
            raise LogUnavailable("the log is closed")
        if self._asking >= WAITING_MAX:
            raise LogBusy(f"{WAITING_MAX} reads wait already")
        self._asking += 1
        try:
            async with AsyncExitStack() as turn:
                if is_long:
                    await turn.enter_async_context(self._long)
                await turn.enter_async_context(self._any)
                return await self._answer(query, values)
        finally:
            self._asking -= 1

    async def close(self) -> None:
        """Let go of every connection; a read that is under way fails."""
        self._closed = True
        for connection in self._busy:
            connection.terminate()
        await asyncio.sleep(0)  # whom that surprises puts its connection back
        while self._idle:
            await close_gracefully(self._idle.pop())

    async def _answer(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        deadline_s = asyncio.get_running_loop().time() + self._database.options.busy_timeout_s
        for pause_s in backoff_delays():
            try:
                return await self._ask(query, values)
            except FAILURES as error:
                if self._closed:
                    raise LogUnavailable("the log is closed") from error
                if is_damage(error):
                    self.damage = explain(error, self._database.label)
                if not is_passing(error) or asyncio.get_running_loop().time() + pause_s > deadline_s:
                    raise LogUnavailable(explain(error, self._database.label)) from error
            await asyncio.sleep(pause_s)
        raise AssertionError("pauses never end")

    async def _ask(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        connection = await self._connection()
        self._busy.add(connection)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found: list[Any] = await connection.fetch(query, *values)
        except asyncio.CancelledError:  # whoever asked has left: asyncpg has the server stop, and waits for that
            self._idle.append(connection)
            raise
        except BaseException:
            connection.terminate()
            raise
        finally:
            self._busy.discard(connection)
        self._idle.append(connection)
        return found

    async def _connection(self) -> asyncpg.Connection:
        if self._closed:
            raise LogUnavailable("the log is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await self._database.connect()


async def stream_events(
    readers: PostgresReaders, stream_id: str, span: Span, *, backwards: bool, bytes_max: int | None = None
) -> list[RecordedEvent]:
    """Events of one stream."""
    order = f"version {'DESC' if backwards else 'ASC'}"
    query = f"{_STREAM} {'DESC' if backwards else 'ASC'} LIMIT $3"
    return list(map(recorded, await _page(readers, query, (stream_id, *span), order, bytes_max)))


async def all_events(readers: PostgresReaders, span: Span) -> list[RecordedEvent]:
    """Events of every stream in order."""
    return list(map(recorded, await readers.rows(_EVERY, *span, is_long=_is_long(span))))


async def event_headers(readers: PostgresReaders, span: Span) -> list[EventHeader]:
    """Events of every stream in order, without contents."""
    return list(starmap(EventHeader, await readers.rows(_HEADERS, *span, is_long=_is_long(span))))


async def events_at(readers: PostgresReaders, positions: Sequence[int]) -> dict[int, RecordedEvent]:
    """The events at `positions`, whatever their number: asked for in pieces."""
    found: dict[int, RecordedEvent] = {}
    for start in range(0, len(positions), POSITIONS_MAX):
        for row in await readers.rows(_AT, list(positions[start : start + POSITIONS_MAX])):
            found[row[0]] = recorded(row)
    return found


async def sizes_at(readers: PostgresReaders, positions: Sequence[int]) -> dict[int, int]:
    """The bytes of content at `positions`, whatever their number: asked for in pieces."""
    found: dict[int, int] = {}
    for start in range(0, len(positions), POSITIONS_MAX):
        found.update(map(tuple, await readers.rows(_SIZES, list(positions[start : start + POSITIONS_MAX]))))
    return found


async def stored_rows(readers: PostgresReaders, span: Span, bytes_max: int | None = None) -> list[StoredRow]:
    """Rows as they lie in the table."""
    return list(starmap(StoredRow, await _page(readers, _ROWS, span, "position", bytes_max)))


async def scan_raw_rows(readers: PostgresReaders, take: Callable[[Iterator[RawColumns]], T], span: Span) -> T:
    """What `take` makes of the rows of `stored_rows`, raw, in another thread."""
    found = await readers.rows(_ROWS, *span, is_long=_is_long(span))
    return await asyncio.to_thread(take, map(raw_columns, starmap(StoredRow, found)))


async def stored_stream(
    readers: PostgresReaders, stream_id: str, span: Span, bytes_max: int | None = None
) -> list[StoredRow]:
    """As `stored_rows`, of one stream."""
    return list(starmap(StoredRow, await _page(readers, _STREAM_ROWS, (stream_id, *span), "version", bytes_max)))


async def _page(
    readers: PostgresReaders, query: str, values: tuple[Any, ...], order: str, bytes_max: int | None
) -> list[Any]:
    """The rows of `query`, whose limit is the last of its values. With `bytes_max` the server sends the first of them,
    up to the row whose content brings them to that many bytes: it knows the sizes without reading the contents.
    """
    is_long = values[-1] > SHORT_ROWS
    if bytes_max is None:
        return await readers.rows(query, *values, is_long=is_long)
    columns = _ALL if query.startswith(f"SELECT {_ALL} ") else _EVENT
    before = f"sum(octet_length(data)) OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    bounded = (
        f"SELECT {columns} FROM (SELECT *, {before} AS before FROM ({query}) AS page) AS sized"  # noqa: S608  constants
        f" WHERE coalesce(before, 0) < ${len(values) + 1} ORDER BY {order}"
    )
    return await readers.rows(bounded, *values, bytes_max, is_long=is_long)


def recorded(row: Sequence[Any]) -> RecordedEvent:
    """A row of `_EVENT` columns, decoded. Raises UnknownEvent or ValueError as events.codec does."""
    position, stream_id, version, kind, schema_version, recorded_at_us, metadata, data = row
    told = decode_metadata(metadata)
    event = decode_recorded(kind, schema_version, data, told)
    return RecordedEvent(position, stream_id, version, kind, schema_version, recorded_at_us, told, event)


def _is_long(span: Span) -> bool:
    return span[1] > SHORT_ROWS
