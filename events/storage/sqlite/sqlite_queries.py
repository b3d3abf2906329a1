"""The queries of a SQLite log: the reading part of events.log.EventLog."""

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing
from itertools import starmap
from typing import Any, TypeVar

from events.codec import decode_metadata, decode_recorded
from events.log import Snapshot
from events.record import Envelope, EventHeader, RawColumns, RecordedEvent, StoredRow, envelope, stored_row
from events.storage.redaction_reading import RedactionRow, with_kept
from events.storage.sqlite.batched_connection import Call
from events.storage.sqlite.sqlite_errors import primary_code
from events.storage.sqlite.sqlite_read_pool import SqliteReadPool
from events.storage.sqlite.sqlite_schema import RAW_COLUMNS, has_redactions

T = TypeVar("T")

POSITIONS_MAX = 500  # positions in one query
SHORT_ROWS = 200  # a query for more is a long one
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1  # SQLite's; a client's cursor may name any number

_DATA = 7  # the column of the content, in _EVENT and in _TEXT_COLUMNS
_EVENT = "position, stream_id, version, type, schema_version, recorded_at, metadata, data"

_AFTER_POSITION = "WHERE position > ? ORDER BY position"
_AFTER_VERSION = "WHERE stream_id = ? AND version > ? ORDER BY version"

# The index is not part of the chain: what is left of an event is taken from a redaction of its own stream only.
_REDACTIONS = (
    "SELECT events_redacted.position, events.position, events.data FROM events_redacted"
    " JOIN events ON events.position = redacted_by AND events.type = 'message_redacted'"
    " JOIN events AS own ON own.position = events_redacted.position AND own.stream_id = events.stream_id"
    " WHERE events.data IS NOT NULL AND events_redacted.position IN ({})"
)

# What `stored_row` makes of RAW_COLUMNS where all texts are UTF-8, whatever types a forger gave the columns.
_TEXT_COLUMNS = (
    "position, ifnull(CAST(stream_id AS TEXT), ''), version, ifnull(CAST(type AS TEXT), ''), schema_version,"
    " recorded_at, ifnull(CAST(metadata AS TEXT), ''), CAST(data AS TEXT), salt, commitment, digest"
)
_RAW_ENVELOPE = "position, CAST(stream_id AS BLOB), version, CAST(type AS BLOB), recorded_at, CAST(metadata AS BLOB)"
_TEXT_ENVELOPE = (
    "position, ifnull(CAST(stream_id AS TEXT), ''), version, ifnull(CAST(type AS TEXT), ''), recorded_at,"
    " ifnull(CAST(metadata AS TEXT), '')"
)


class SqliteQueries:
    """The methods of EventLog that read. All raise as SqliteReadPool.run."""

    def __init__(self, pool: SqliteReadPool) -> None:
        self._pool = pool

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        """As EventLog.read."""
        order = "DESC" if backwards else "ASC"
        query = f"SELECT {_EVENT} FROM events {_AFTER_VERSION} {order} LIMIT ?"  # noqa: S608  constants
        values = (stream_id, *_span(after, limit))
        return await self._events(query, values, is_long=_is_long(values), bytes_max=bytes_max)

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        """As EventLog.read_all."""
        query = f"SELECT {_EVENT} FROM events {_AFTER_POSITION} LIMIT ?"  # noqa: S608  constants
        span = _span(after, limit)
        return await self._events(query, span, is_long=_is_long(span))

    async def event_headers(self, *, after: int = 0, limit: int) -> list[EventHeader]:
        """As EventLog.event_headers."""
        query = f"SELECT position, stream_id, version, type FROM events {_AFTER_POSITION} LIMIT ?"  # noqa: S608  constants
        span = _span(after, limit)
        return list(starmap(EventHeader, await self._fetch(query, span, is_long=_is_long(span))))

    async def envelopes(self, *, after: int = 0, limit: int) -> list[Envelope]:
        """As EventLog.envelopes: as they are in the file, however damaged their texts."""
        span = _span(after, limit)

        def select(connection: sqlite3.Connection) -> list[Envelope]:
            query = f"SELECT {{}} FROM events {_AFTER_POSITION} LIMIT ?"  # noqa: S608  constants
            return _decoded(connection, query, span, (_TEXT_ENVELOPE, Envelope), (_RAW_ENVELOPE, _envelope))

        return await self._pool.run(select, is_long=_is_long(span))

    async def read_at(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """As EventLog.read_at."""
        found: dict[int, RecordedEvent] = {}
        for page in _pages(positions):
            query = f"SELECT {_EVENT} FROM events WHERE position IN ({','.join('?' * len(page))})"  # noqa: S608  placeholders
            found.update((one.position, one) for one in await self._events(query, page, is_long=False))
        return found

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """As EventLog.sizes."""
        found: dict[int, int] = {}
        for page in _pages(positions):
            query = (
                "SELECT position, ifnull(length(CAST(data AS BLOB)), 0) FROM events"  # noqa: S608  placeholders
                f" WHERE position IN ({','.join('?' * len(page))})"
            )
            found.update(await self._fetch(query, page, is_long=True))  # SQLite reads the texts to measure them
        if empty := [position for position, size in found.items() if not size]:
            found.update(await self._pool.run(lambda raw: _kept_sizes(raw, empty), is_long=True))
        return found

    async def rows(self, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        """As EventLog.rows: rows as they are in the file, however damaged their texts."""
        return await self._stored(_AFTER_POSITION, _span(after, limit), bytes_max)

    async def rows_at(self, positions: Sequence[int]) -> dict[int, StoredRow]:
        """As EventLog.rows_at."""
        found: dict[int, StoredRow] = {}
        for page in _pages(positions):
            where = f"WHERE position IN ({','.join('?' * len(page))})"
            found.update((row.position, row) for row in await self._stored(where, (*page, POSITIONS_MAX), None))
        return found

    async def stream_rows(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None
    ) -> list[StoredRow]:
        """As EventLog.stream_rows."""
        return await self._stored(_AFTER_VERSION, (stream_id, *_span(after, limit)), bytes_max)

    async def scan_rows(self, consume: Callable[[Iterator[RawColumns]], T], *, after: int = 0, limit: int) -> T:
        """As RowScanner.scan_rows: `consume` runs in the thread that reads the rows."""
        span = _span(after, limit)

        def scan(connection: sqlite3.Connection) -> T:
            query = f"SELECT {RAW_COLUMNS} FROM events {_AFTER_POSITION} LIMIT ?"  # noqa: S608  constants
            with closing(connection.execute(query, span)) as rows:  # or a snapshot would stay open
                return consume(rows)

        return await self._pool.run(scan, is_long=_is_long(span))

    async def run_query(self, call: Call[T]) -> T:
        """The result of a short `call`, which gets a connection that cannot write, in its thread."""
        return await self._pool.run(call)

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """As EventLog.snapshot."""
        return self._pool.snapshot()

    async def _fetch(self, query: str, values: Sequence[Any], *, is_long: bool) -> list[Any]:
        return await self._pool.run(lambda raw: _select(raw, query, values), is_long=is_long)

    async def _events(
        self, query: str, values: Sequence[Any], *, is_long: bool, bytes_max: int | None = None
    ) -> list[RecordedEvent]:
        """The events that `query` selects by `_EVENT`; with `bytes_max` the first of them only."""

        def select(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            rows = _select(connection, query, values, bytes_max)
            return _with_kept(connection, rows) if any(row[_DATA] is None for row in rows) else rows

        return list(map(recorded, await self._pool.run(select, is_long=is_long)))

    async def _stored(self, where: str, values: tuple[Any, ...], bytes_max: int | None) -> list[StoredRow]:
        def select(connection: sqlite3.Connection) -> list[StoredRow]:
            query = f"SELECT {{}} FROM events {where} LIMIT ?"  # noqa: S608  constants
            return _decoded(connection, query, values, (_TEXT_COLUMNS, StoredRow), (RAW_COLUMNS, _row), bytes_max)

        return await self._pool.run(select, is_long=_is_long(values))


def _span(after: int, limit: int) -> tuple[int | float, int]:
    """(after, limit) as SQLite can compare them. Raises ValueError."""
    if limit < 1:  # SQLite takes a negative limit for none
        raise ValueError("limit must be at least 1")
    below = after if after >= INTEGER_MIN else -math.inf  # below all: even a row at the lowest integer is after it
    return min(below, INTEGER_MAX), min(limit, INTEGER_MAX)


def _pages(positions: Sequence[int]) -> Iterator[list[int]]:
    """Those of `positions` that can exist, in pieces of one query."""
    possible = [position for position in positions if 0 < position <= INTEGER_MAX]
    for start in range(0, len(possible), POSITIONS_MAX):
        yield possible[start : start + POSITIONS_MAX]


def _is_long(values: tuple[Any, ...]) -> bool:
    """Whether a query may return many rows; its limit is the last of its values."""
    limit: int = values[-1]
    return limit > SHORT_ROWS


def _row(*raw: Any) -> StoredRow:
    return stored_row(raw)


def _envelope(*raw: Any) -> Envelope:
    return envelope(raw)


def _decoded(
    connection: sqlite3.Connection,
    query: str,
    values: Sequence[Any],
    texts: tuple[str, Callable[..., T]],
    raw: tuple[str, Callable[..., T]],
    bytes_max: int | None = None,
) -> list[T]:
    """The rows of `query`, made from one of two kinds of columns and the function that takes them.

    Texts decoded by SQLite's module cost half of those decoded here, but it fails at one that is not UTF-8.
    """
    try:
        return list(starmap(texts[1], _select(connection, query.format(texts[0]), values, bytes_max)))
    except sqlite3.OperationalError as error:
        if primary_code(error):
            raise
    return list(starmap(raw[1], _select(connection, query.format(raw[0]), values, bytes_max)))


def _select(
    connection: sqlite3.Connection, query: str, values: Sequence[Any], bytes_max: int | None = None
) -> list[tuple[Any, ...]]:
    with closing(connection.execute(query, values)) as rows:  # a cursor that stays open keeps its snapshot
        return rows.fetchall() if bytes_max is None else list(_until_bytes(rows, bytes_max))


def _with_kept(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """`rows` of `_EVENT` with what is left of those that are redacted."""
    if not has_redactions(connection):
        return rows
    found: list[RedactionRow] = []
    for page in _pages([row[0] for row in rows if row[_DATA] is None]):
        found += _select(connection, _REDACTIONS.format(",".join("?" * len(page))), page)
    return with_kept(rows, found) if found else rows


def _kept_sizes(connection: sqlite3.Connection, positions: Sequence[int]) -> dict[int, int]:
    """Bytes that are at least those of what is left, of the events at `positions` that are redacted."""
    found: list[tuple[int, int]] = []
    for page in _pages(positions) if has_redactions(connection) else ():
        query = _REDACTIONS.replace("events.data", "length(CAST(events.data AS BLOB))", 1)
        rows = _select(connection, query.format(",".join("?" * len(page))), page)
        found += [(position, size) for position, _, size in rows]
    return dict(found)


def _until_bytes(rows: Iterable[tuple[Any, ...]], bytes_max: int) -> Iterator[tuple[Any, ...]]:
    """Rows until their contents add up to `bytes_max`: the row that reaches it is the last one."""
    total = 0
    for row in rows:
        yield row
        total += _size(row[_DATA])
        if total >= bytes_max:
            return


def _size(data: object) -> int:
    """Bytes in UTF-8, nearly: to encode every text only to measure it would cost as much as to read it."""
    if isinstance(data, str):
        return len(data) if data.isascii() else 3 * len(data)
    return len(data) if isinstance(data, bytes) else 0


def recorded(row: tuple[Any, ...]) -> RecordedEvent:
    """A row of `_EVENT` columns, decoded. Raises UnknownEvent or ValueError as events.codec does."""
    position, stream_id, version, event_type, schema_version, recorded_at_us, text, data = row
    metadata = decode_metadata(text)
    return RecordedEvent(
        position=position,
        stream_id=stream_id,
        version=version,
        type=event_type,
        schema_version=schema_version,
        recorded_at_us=recorded_at_us,
        metadata=metadata,
        event=decode_recorded(event_type, schema_version, data, metadata),
    )
