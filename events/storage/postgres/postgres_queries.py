"""The queries of a log in PostgreSQL: the reading part of events.log.EventLog."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import starmap
from typing import Any, TypeVar

from events.codec import decode_metadata, decode_recorded
from events.log import Snapshot
from events.record import Envelope, EventHeader, RawColumns, RecordedEvent, StoredRow, raw_columns
from events.storage.postgres.postgres_read_pool import ROWS, PostgresReadPool
from events.storage.postgres.postgres_redaction_schema import RedactionReader
from events.storage.postgres.postgres_schema import COLUMNS

T = TypeVar("T")

SHORT_ROWS = 200  # a query for more is a long one
POSITIONS_MAX = 500  # positions in one query
BIGINT_MIN, BIGINT_MAX = -(2**63), 2**63 - 1  # PostgreSQL's; a client's cursor may name any number

_EVENT = ", ".join(COLUMNS[:8])
_ALL = ", ".join(COLUMNS)
_STREAM = f"SELECT {_EVENT} FROM events WHERE stream_id = $1 AND version > $2 ORDER BY version"  # noqa: S608  constants
_EVERY = f"SELECT {_EVENT} FROM events WHERE position > $1 ORDER BY position LIMIT $2"  # noqa: S608  constants
_AT = f"SELECT {_EVENT} FROM events WHERE position = ANY($1::bigint[])"  # noqa: S608  constants
_SIZES = "SELECT position, coalesce(octet_length(data), 0) FROM events WHERE position = ANY($1::bigint[])"
_HEADERS = "SELECT position, stream_id, version, type FROM events WHERE position > $1 ORDER BY position LIMIT $2"
_ENVELOPES = (
    "SELECT position, stream_id, version, type, recorded_at, metadata FROM events WHERE position > $1"
    " ORDER BY position LIMIT $2"
)
_ROWS_AT = f"SELECT {_ALL} FROM events WHERE position = ANY($1::bigint[])"  # noqa: S608  constants
_STREAM_ROWS = f"SELECT {_ALL} FROM events WHERE stream_id = $1 AND version > $2 ORDER BY version LIMIT $3"  # noqa: S608  constants

Span = tuple[int, int]  # after, limit


class PostgresQueries:
    """The methods of EventLog that read. All raise as PostgresReadPool.fetch."""

    def __init__(self, pool: PostgresReadPool) -> None:
        self._pool = pool
        self._redactions = RedactionReader(pool.fetch)

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        """As EventLog.read."""
        order = "DESC" if backwards else "ASC"
        query, values = f"{_STREAM} {order} LIMIT $3", (stream_id, *_span(after, limit))
        return await self._decoded(await self._page(query, values, f"version {order}", bytes_max))

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        """As EventLog.read_all."""
        span = _span(after, limit)
        return await self._decoded(await self._pool.fetch(_EVERY, *span, is_long=_is_long(span)))

    async def event_headers(self, *, after: int = 0, limit: int) -> list[EventHeader]:
        """As EventLog.event_headers."""
        span = _span(after, limit)
        return list(starmap(EventHeader, await self._pool.fetch(_HEADERS, *span, is_long=_is_long(span))))

    async def envelopes(self, *, after: int = 0, limit: int) -> list[Envelope]:
        """As EventLog.envelopes."""
        span = _span(after, limit)
        return list(starmap(Envelope, await self._pool.fetch(_ENVELOPES, *span, is_long=_is_long(span))))

    async def read_at(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """As EventLog.read_at."""
        found: dict[int, RecordedEvent] = {}
        for page in _pages(positions):
            found.update((one.position, one) for one in await self._decoded(await self._pool.fetch(_AT, page)))
        return found

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """As EventLog.sizes."""
        found: dict[int, int] = {}
        for page in _pages(positions):
            found.update(map(tuple, await self._pool.fetch(_SIZES, page)))
        found.update(await self._redactions.sizes([position for position, size in found.items() if not size]))
        return found

    async def rows(self, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        """As EventLog.rows."""
        return list(starmap(StoredRow, await self._page(ROWS, _span(after, limit), "position", bytes_max)))

    async def rows_at(self, positions: Sequence[int]) -> dict[int, StoredRow]:
        """As EventLog.rows_at."""
        found: dict[int, StoredRow] = {}
        for page in _pages(positions):
            found.update((row[0], StoredRow(*row)) for row in await self._pool.fetch(_ROWS_AT, page))
        return found

    async def stream_rows(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None
    ) -> list[StoredRow]:
        """As EventLog.stream_rows."""
        values = (stream_id, *_span(after, limit))
        return list(starmap(StoredRow, await self._page(_STREAM_ROWS, values, "version", bytes_max)))

    async def scan_rows(self, consume: Callable[[Iterator[RawColumns]], T], *, after: int = 0, limit: int) -> T:
        """As RowScanner.scan_rows: `consume` runs in another thread."""
        span = _span(after, limit)
        found = await self._pool.fetch(ROWS, *span, is_long=_is_long(span))
        return await asyncio.to_thread(consume, map(raw_columns, starmap(StoredRow, found)))

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """As EventLog.snapshot."""
        return self._pool.snapshot()

    async def _decoded(self, rows: Sequence[Any]) -> list[RecordedEvent]:
        """The events in rows of `_EVENT`. What is left of a redacted one is there once its content is not."""
        return list(map(recorded, await self._redactions.with_kept(rows)))

    async def _page(self, query: str, values: tuple[Any, ...], order: str, bytes_max: int | None) -> list[Any]:
        """The rows of `query`, whose limit is the last of its values. With `bytes_max` the server sends the first of
        them, up to the row whose content brings them to that many bytes: it knows the sizes without reading contents.
        """
        is_long = values[-1] > SHORT_ROWS
        if bytes_max is None:
            return await self._pool.fetch(query, *values, is_long=is_long)
        columns = _ALL if query.startswith(f"SELECT {_ALL} ") else _EVENT
        before = f"sum(octet_length(data)) OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        bounded = (
            f"SELECT {columns} FROM (SELECT *, {before} AS before FROM ({query}) AS page) AS sized"  # noqa: S608  constants
            f" WHERE coalesce(before, 0) < ${len(values) + 1} ORDER BY {order}"
        )
        return await self._pool.fetch(bounded, *values, bytes_max, is_long=is_long)


def recorded(row: Sequence[Any]) -> RecordedEvent:
    """A row of `_EVENT` columns, decoded. Raises UnknownEvent or ValueError as events.codec does."""
    position, stream_id, version, kind, schema_version, recorded_at_us, text, data = row
    metadata = decode_metadata(text)
    event = decode_recorded(kind, schema_version, data, metadata)
    return RecordedEvent(position, stream_id, version, kind, schema_version, recorded_at_us, metadata, event)


def _span(after: int, limit: int) -> Span:
    """(after, limit) as PostgreSQL can compare them. Raises ValueError."""
    if limit < 1:
        raise ValueError("limit must be at least 1")
    return max(BIGINT_MIN, min(after, BIGINT_MAX)), min(limit, BIGINT_MAX)


def _pages(positions: Sequence[int]) -> Iterator[list[int]]:
    """Those of `positions` that can exist, in pieces of one query."""
    possible = [position for position in positions if 0 < position <= BIGINT_MAX]
    for start in range(0, len(possible), POSITIONS_MAX):
        yield possible[start : start + POSITIONS_MAX]


def _is_long(span: Span) -> bool:
    return span[1] > SHORT_ROWS
