"""Recorded events: the envelope (position, version, time, metadata), stored rows, event headers, the log's head."""

from typing import Any

from msgspec import Struct

from events.catalogue import CONTENT_REMOVING_TYPES, RESERVED_STREAMS, LoggedEvent


class Metadata(Struct, frozen=True, omit_defaults=True):
    """What caused an event. Kept when the content is erased, so it never contains a person's words.

    `actor` is the name of the caller's API key; `request_id` is the response's X-Request-ID; `cause` is set if the
    service acted by itself (`expiry`, `recovery`, `shutdown`, `retention`) or for an operator (`erasure`, `operator`).
    `ignorable`: a program that does not know the event's type may ignore it (events/compatibility.py).
    `imported` is where the event was copied from: `<identity>:<position>` of another log.
    """

    actor: str | None = None
    request_id: str | None = None
    cause: str | None = None
    imported: str | None = None
    ignorable: bool = False


class RecordedEvent(Struct, frozen=True, gc=False):
    """An event in the log. `event` is None once its content has been erased.

    Not tracked by the garbage collector (`gc=False`): there are many of them, and they cannot be part of a cycle.
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
    """One row as stored, not decoded: the hash chain is computed from its columns."""

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
POSITION, STREAM, VERSION, TYPE, SCHEMA_VERSION, DATA, SALT = 0, 1, 2, 3, 4, 7, 8  # indexes in Columns
RawColumns = tuple[Any, ...]  # the same, with texts as the bytes in the store, UTF-8 or not


# Every process is told of events of these types and of these streams, whatever it holds: caches may have content that
# was removed, and keys and holds are known everywhere.
BROADCAST_TYPES = CONTENT_REMOVING_TYPES
BROADCAST_STREAMS = frozenset(RESERVED_STREAMS)


class EventHeader(Struct, frozen=True):
    """An event without content: enough to tell which stream has changed."""

    position: int
    stream_id: str
    version: int
    type: str


class StreamVersion(Struct, frozen=True, gc=False):
    """A stream at one of its versions, 0: it has no event."""

    stream_id: str
    version: int


class Envelope(Struct, frozen=True):
    """An event without content, with its time and metadata (as stored): enough to search by."""

    position: int
    stream_id: str
    version: int
    type: str
    recorded_at_us: int
    metadata: str


class Head(Struct, frozen=True):
    """The end of the log: position 0 and 32 zero bytes when it is empty."""

    position: int
    digest: bytes


def stored_row(raw: RawColumns) -> StoredRow:
    """Decode raw columns. Bytes that are not UTF-8 become lone surrogates; NULL (only in forgeries) becomes ""."""
    position, stream_id, version, kind, schema_version, recorded_at_us, metadata, data, *proof = raw
    envelope = _text(stream_id), version, _text(kind), schema_version, recorded_at_us, _text(metadata)
    return StoredRow(position, *envelope, None if data is None else _text(data), *proof)


def envelope(raw: RawColumns) -> Envelope:
    """Decode the raw columns of an envelope, as `stored_row` decodes those of a row."""
    position, stream_id, version, kind, recorded_at_us, metadata = raw
    return Envelope(position, _text(stream_id), version, _text(kind), recorded_at_us, _text(metadata))


def raw_columns(row: StoredRow) -> RawColumns:
    """The inverse of `stored_row`."""
    envelope = raw_text(row.stream_id), row.version, raw_text(row.type), row.schema_version, row.recorded_at_us
    data = None if row.data is None else raw_text(row.data)
    return row.position, *envelope, raw_text(row.metadata), data, row.salt, row.commitment, row.digest


def raw_text(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _text(stored: bytes | None) -> str:
    return "" if stored is None else stored.decode(errors="surrogateescape")
