"""The envelope of an event: what the log keeps besides the event's own data."""

from typing import Any

from msgspec import Struct

from events.catalogue import LoggedEvent


class Metadata(Struct, frozen=True, omit_defaults=True):
    """Who and what caused an event. It outlives erasure, so it never holds a person's words.

    `actor` is the name of the API key that asked; `request_id` is the answer's X-Request-ID; `cause` names what
    made the service act by itself (`expiry`, `recovery`, `shutdown`, `retention`), or an operator's `erasure`.
    `ignorable`: a program that does not know the event's type may pass over it (events/compatibility.py).
    `imported` is the place that an event was copied from, `<origin>:<position>` of another log.
    """

    actor: str | None = None
    request_id: str | None = None
    cause: str | None = None
    imported: str | None = None
    ignorable: bool = False


class RecordedEvent(Struct, frozen=True, gc=False):
    """An event in the log. `event` is None once its content has been erased.

    Not the collector's business: there are many of them, and nothing that they hold leads back to them.
    """

    position: int
    stream_id: str
    version: int
    type: str
    schema_version: int
    recorded_at_us: int
    metadata: Metadata
    event: LoggedEvent | None


class StoredRow(Struct, frozen=True):
    """One row as it lies in the store, undecoded: what the chain is computed over and `verify` walks."""

    position: int
    stream_id: str
    version: int
    type: str
    schema_version: int
    recorded_at_us: int
    metadata: str
    data: str | None
    salt: bytes | None
    commitment: bytes
    digest: bytes


VERSION_MAX = 2**53  # the largest integer that every JSON reader represents exactly

Columns = tuple[Any, ...]  # those of a row, in the order of StoredRow
RawColumns = tuple[Any, ...]  # the same, with texts as the bytes in the store, UTF-8 or not


class EventHeader(Struct, frozen=True):
    """What an event tells without its content: enough to know whom it concerns."""

    position: int
    stream_id: str
    version: int
    type: str


class Head(Struct, frozen=True):
    """The end of the log: position 0 and 32 zero bytes when it is empty."""

    position: int
    digest: bytes


def stored_row(raw: RawColumns) -> StoredRow:
    """The row of raw columns. Bytes that are not UTF-8 become surrogates, a missing text (a forgery) becomes ""."""
    position, stream_id, version, kind, schema_version, recorded_at_us, metadata, data, *proof = raw
    told = _text(stream_id), version, _text(kind), schema_version, recorded_at_us, _text(metadata)
    return StoredRow(position, *told, None if data is None else _text(data), *proof)


def raw_columns(row: StoredRow) -> RawColumns:
    """The inverse of `stored_row`."""
    told = raw_text(row.stream_id), row.version, raw_text(row.type), row.schema_version, row.recorded_at_us
    data = None if row.data is None else raw_text(row.data)
    return row.position, *told, raw_text(row.metadata), data, row.salt, row.commitment, row.digest


def raw_text(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _text(stored: bytes | None) -> str:
    return "" if stored is None else stored.decode(errors="surrogateescape")
