"""From appends to rows, without I/O: encode and commit to each event, then place a batch on the end of the chain."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from events.catalogue import SCHEMA_VERSIONS, Event
from events.chain import SALT_BYTES, commit, link
from events.codec import decode, encode, event_type
from events.errors import LogError, VersionConflict
from events.record import Head, Metadata, RecordedEvent, StoredRow, encode_metadata

VERSION_MAX = 2**53  # what any JSON reader still tells apart

Outcome = tuple[RecordedEvent, ...] | LogError


class Content(Struct, frozen=True):
    """One event encoded, with the salt and the commitment that the chain will keep of it."""

    event: Event
    type: str
    data: str
    salt: bytes
    commitment: bytes


class Pending(Struct, frozen=True):
    """An append that waits for its place. `size` is the length of its data in bytes."""

    stream_id: str
    expected_version: int
    contents: tuple[Content, ...]
    metadata: Metadata
    metadata_text: str
    recorded_at_us: int
    size: int
    erases: bool


class Plan(Struct, frozen=True):
    """A batch in place: the rows to write, what each append gets once they are, and the head after them.

    `erasures` are (stream_id, version): content of that stream before that version goes.
    """

    rows: list[StoredRow]
    outcomes: list[Outcome]
    erasures: list[tuple[str, int]]
    head: Head
    conflicts: int


class Origin(Struct, frozen=True):
    """Where and why events are appended: everything of an append but the events."""

    stream_id: str
    expected_version: int
    metadata: Metadata
    recorded_at_us: int
    erases: bool = False


def prepare(events: Sequence[Event], origin: Origin, random_bytes: Callable[[int], bytes]) -> Pending:
    """Encode what the caller appends, in the caller's own task: what is wrong with it must not reach a batch.

    Raises ValueError for no events, an impossible version, text that is not Unicode (a lone surrogate), or a field
    whose value is not of its type.
    """
    if not events:
        raise ValueError("an append needs at least one event")
    if not 0 <= origin.expected_version < VERSION_MAX:
        raise ValueError(f"expected_version {origin.expected_version} is not a version")
    origin.stream_id.encode()  # a lone surrogate here would fail the whole batch later
    contents, size = [], 0
    for event in events:
        kind, data, salt = event_type(event), encode(event), random_bytes(SALT_BYTES)
        decode(kind, SCHEMA_VERSIONS[kind], data)  # what cannot be read back would stop every projection, for ever
        contents.append(Content(event, kind, data.decode(), salt, commit(salt, data)))
        size += len(data)
    return Pending(
        stream_id=origin.stream_id,
        expected_version=origin.expected_version,
        contents=tuple(contents),
        metadata=origin.metadata,
        metadata_text=encode_metadata(origin.metadata),
        recorded_at_us=origin.recorded_at_us,
        size=size,
        erases=origin.erases,
    )


def plan(batch: Sequence[Pending], head: Head, versions: dict[str, int]) -> Plan:
    """Place `batch` after `head`.

    `versions` are the streams' versions as the store has them; for a stream that it does not name, the first append
    is believed. Appends to one stream follow each other; one that does not fit gets VersionConflict alone.
    """
    reached, rows, erasures = dict(versions), [], []
    outcomes: list[Outcome] = []
    for append in batch:
        version = reached.setdefault(append.stream_id, append.expected_version)
        if version != append.expected_version:
            outcomes.append(VersionConflict(append.stream_id, append.expected_version))
            continue
        placed = _place(append, head)
        head = Head(placed[-1].position, placed[-1].digest)
        reached[append.stream_id] = placed[-1].version
        rows.extend(placed)
        outcomes.append(_recorded(append, placed))
        if append.erases:
            erasures.append((append.stream_id, placed[-1].version))
    conflicts = sum(isinstance(outcome, VersionConflict) for outcome in outcomes)
    return Plan(rows, outcomes, erasures, head, conflicts)


def _place(append: Pending, head: Head) -> list[StoredRow]:
    rows: list[StoredRow] = []
    position, digest, stream_id, metadata = head.position, head.digest, append.stream_id, append.metadata_text
    for version, content in enumerate(append.contents, append.expected_version + 1):
        position += 1
        schema_version = SCHEMA_VERSIONS[content.type]
        numbers = (position, version, schema_version, append.recorded_at_us)
        digest = link(digest, numbers, (stream_id, content.type, metadata), content.commitment)
        rows.append(
            StoredRow(
                position=position,
                stream_id=stream_id,
                version=version,
                type=content.type,
                schema_version=schema_version,
                recorded_at_us=append.recorded_at_us,
                metadata=metadata,
                data=content.data,
                salt=content.salt,
                commitment=content.commitment,
                digest=digest,
            )
        )
    return rows


def _recorded(append: Pending, rows: Sequence[StoredRow]) -> tuple[RecordedEvent, ...]:
    return tuple(
        RecordedEvent(
            position=row.position,
            stream_id=row.stream_id,
            version=row.version,
            type=row.type,
            schema_version=row.schema_version,
            recorded_at_us=row.recorded_at_us,
            metadata=append.metadata,
            event=content.event,
        )
        for row, content in zip(rows, append.contents, strict=True)
    )
