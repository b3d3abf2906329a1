"""From appends to rows, without I/O: encode each event and commit to it, then add a batch to the end of the chain."""

import io
import os
import time
from collections.abc import Callable, Sequence
from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from events import codec
from events.catalogue import MESSAGE_REDACTED, AnyEvent, Event, MessageRedacted
from events.codec import check, encode, encode_metadata, event_type, schema_version_of
from events.errors import LogError, VersionConflict
from events.integrity.commitments import commit_parts
from events.integrity.hash_chain import SALT_BYTES, commit, link
from events.media import MediaMissing
from events.record import TYPE, VERSION_MAX, Head, Metadata, RecordedEvent, StreamVersion
from events.schema.parts import Parts, find_faults, stored_parts, text_of
from events.storage.media_references import digests_of

RANDOM_BUFFER_BYTES = 1024  # salts of 64 events

# The structs of an append are not tracked by the garbage collector (gc=False): they are in no reference cycle, and so
# many that its passes would take measurable time.

Outcome = tuple[RecordedEvent, ...] | LogError
Row = tuple[int | str | bytes, ...]  # a row's columns, in the order of StoredRow


class EncodedEvent(Struct, frozen=True, gc=False, array_like=True):
    """One event encoded, with the salt and the commitment that the chain will keep of it. `event` is None in a process
    that writes for another one (events/remote): nothing there needs it.
    """

    type: str
    schema_version: int
    data: str
    salt: bytes
    commitment: bytes
    event: AnyEvent | None = None


class PendingAppend(Struct, frozen=True, gc=False, array_like=True):
    """An append that waits for its batch. `size` is the length of its data in bytes, `media` are the SHA-256 of the
    files that its events refer to: (index of the content, SHA-256). `metadata_text` is the JSON of `metadata`.

    One without contents only erases what the stream holds before version `expected_version`. `unchanged`: nothing is
    recorded unless that stream is at that version, too.
    """

    stream_id: str
    expected_version: int
    contents: tuple[EncodedEvent, ...]
    metadata_text: str
    recorded_at_us: int
    size: int
    erases: bool
    media: tuple[tuple[int, bytes], ...] = ()
    unchanged: StreamVersion | None = None
    metadata: Metadata = Metadata()

    @property
    def removes_content(self) -> bool:
        """Whether content that was recorded is gone with it: all that is before it, or of a message."""
        return self.erases or any(one.type == MESSAGE_REDACTED for one in self.contents)


class BatchPlan(Struct, frozen=True):
    """A batch on the chain: the rows to write, the outcome of each append once they are written, and the new head.

    `erasures` are (stream_id, version): the content of that stream before that version is erased. `uploads` are
    (SHA-256, owner): these need not be kept as uploads any more, an event refers to them. `size` is the length of the
    rows' data in bytes. `removes_content`: content that was recorded is gone with it.
    """

    rows: list[Row]
    outcomes: list[Outcome]
    erasures: list[tuple[str, int]]
    uploads: list[tuple[bytes, str]]
    head: Head
    size: int
    removes_content: bool


class AppendContext(Struct, frozen=True, gc=False):
    """Everything of an append except its events."""

    stream_id: str
    expected_version: int
    metadata: Metadata
    recorded_at_us: int
    erases: bool = False
    unchanged: StreamVersion | None = None


def now_us() -> int:
    """Microseconds since 1970, UTC: the clock of `recorded_at_us`."""
    return time.time_ns() // 1000


def buffered_random_bytes() -> Callable[[int], bytes]:
    """Random bytes of the system, drawn in advance: a call for a thousand costs as much as one for sixteen."""
    buffer = io.BytesIO()

    def draw(size: int) -> bytes:
        nonlocal buffer
        drawn = buffer.read(size)
        if len(drawn) < size:
            buffer = io.BytesIO(os.urandom(max(size, RANDOM_BUFFER_BYTES)))
            drawn = buffer.read(size)
        return drawn

    return draw


def prepare(events: Sequence[Event], origin: AppendContext, random_bytes: Callable[[int], bytes]) -> PendingAppend:
    """Encode what the caller appends, in the caller's own task: an invalid append must not reach a batch.

    Raises ValueError for no events, an impossible version, text that is not Unicode (a lone surrogate), or a field
    whose value is not of its type.
    """
    if not events:
        raise ValueError("an append needs at least one event")
    if not 0 <= origin.expected_version < VERSION_MAX:
        raise ValueError(f"expected_version {origin.expected_version} is not a version")
    origin.stream_id.encode()  # a lone surrogate here would fail the whole batch later
    contents: list[EncodedEvent] = []
    size = 0
    media: list[tuple[int, bytes]] = []
    for event in events:
        kind, data = event_type(event), encode(event)
        check(kind, data)  # an event that cannot be decoded would stop every projection
        if isinstance(event, MessageRedacted):
            media += [(len(contents), bytes.fromhex(sha256)) for sha256 in event.files]
        schema_version = schema_version_of(kind, event)
        if schema_version > 1 and (parts := getattr(event, "parts", ())):
            _check_parts(parts, event)
            media += [(len(contents), sha256) for sha256 in digests_of(parts)]
            salt, commitment = commit_parts(kind.encode(), data, random_bytes)
        else:
            salt = random_bytes(SALT_BYTES)
            commitment = commit(salt, data)
        known: AnyEvent = event  # type: ignore[assignment]  # event_type() knows its class; a cast takes time
        contents.append(EncodedEvent(kind, schema_version, data.decode(), salt, commitment, known))
        size += len(data)
    metadata = _metadata(origin.metadata, contents)
    origin_of, text = (origin.stream_id, origin.expected_version), encode_metadata(metadata)
    at_us, erases = origin.recorded_at_us, origin.erases
    files, unchanged = tuple(media), origin.unchanged
    return PendingAppend(*origin_of, tuple(contents), text, at_us, size, erases, files, unchanged, metadata)


def _check_parts(parts: Parts, event: Event) -> None:
    """Raises ValueError."""
    if getattr(event, "content", "") != text_of(parts):
        raise ValueError("$.content must be the text of the parts")
    if not stored_parts(parts):
        raise ValueError("$.parts are left out where they are one text")
    for fault in find_faults(parts):
        raise ValueError(f"{fault.path} {fault.detail}")


def _metadata(given: Metadata, contents: Sequence[EncodedEvent]) -> Metadata:
    """Raises ValueError for events of which only some may be ignored: they share their metadata."""
    ignorable = sum([one.type in codec.IGNORABLE for one in contents])  # a list: faster than a generator for so few
    if not ignorable:
        return given
    if ignorable < len(contents):
        raise ValueError("events that may be ignored are appended by themselves")
    return replace(given, ignorable=True)


def erasure(stream_id: str, version: int) -> PendingAppend:
    """Erases the stream's content before `version`, at which an event that explains it is recorded already."""
    return PendingAppend(stream_id, version, (), "", 0, 0, erases=True)


def recorded_events(append: PendingAppend, first: int) -> tuple[RecordedEvent, ...]:
    """The outcome of `append` once its first event is at position `first`."""
    stream_id, at_us, metadata = append.stream_id, append.recorded_at_us, append.metadata
    return tuple(
        [  # a list: faster than a generator for so few
            RecordedEvent(position, stream_id, version, one.type, one.schema_version, at_us, metadata, one.event)
            for position, version, one in zip(count(first), count(append.expected_version + 1), append.contents)
        ]
    )


def depended_streams(batch: Sequence[PendingAppend]) -> list[str]:
    """The streams whose versions in the store `plan` must be given, as appends of `batch` depend on them."""
    return list({append.unchanged.stream_id for append in batch if append.unchanged is not None})


def plan(
    batch: Sequence[PendingAppend], head: Head, versions: dict[str, int], missing: frozenset[bytes] = frozenset()
) -> BatchPlan:
    """Add `batch` to the chain after `head`. An append that refers to one of the `missing` files gets MediaMissing.

    `versions` are the streams' versions in the store; for a stream that is not in it, the expected version of the first
    append is believed, so it has all `depended_streams`. Appends to one stream follow each other; only those that do
    not fit get VersionConflict.
    """
    reached, erasures, uploads = dict(versions), [], []
    rows: list[Row] = []
    outcomes: list[Outcome] = []
    size = 0
    for append in batch:
        expected = append.expected_version
        if not append.contents:
            outcomes.append(())
            erasures.append((append.stream_id, expected))
            continue
        if missing and (absent := [sha256 for _, sha256 in append.media if sha256 in missing]):
            outcomes.append(MediaMissing(absent[0].hex()))
            continue
        if reached.setdefault(append.stream_id, expected) != expected:
            outcomes.append(VersionConflict(append.stream_id, expected))
            continue
        if append.unchanged is not None and reached[append.unchanged.stream_id] != append.unchanged.version:
            outcomes.append(VersionConflict(append.unchanged.stream_id, append.unchanged.version))
            continue
        head, recorded = _chain_rows(append, head, rows)
        reached[append.stream_id] = recorded[-1].version
        outcomes.append(recorded)
        size += append.size
        if append.erases:
            erasures.append((append.stream_id, recorded[-1].version))
        uploads += [(sha256, append.metadata.actor or "") for _, sha256 in append.media]
    removes_content = bool(erasures) or MESSAGE_REDACTED in {row[TYPE] for row in rows}
    return BatchPlan(rows, outcomes, erasures, uploads, head, size, removes_content)


def _chain_rows(append: PendingAppend, head: Head, rows: list[Row]) -> tuple[Head, tuple[RecordedEvent, ...]]:
    """Add the rows of `append` to `rows`. Returns the head after them, and the recorded events."""
    position, digest, version = head.position, head.digest, append.expected_version
    stream_id, at_us, metadata, text = append.stream_id, append.recorded_at_us, append.metadata, append.metadata_text
    recorded = []
    for content in append.contents:
        position, version, kind, commitment = position + 1, version + 1, content.type, content.commitment
        schema = content.schema_version
        digest = link(digest, (position, version, schema, at_us), (stream_id, kind, text), commitment)
        envelope = (position, stream_id, version, kind, schema, at_us)
        rows.append((*envelope, text, content.data, content.salt, commitment, digest))
        recorded.append(RecordedEvent(*envelope, metadata, content.event))
    return Head(position, digest), tuple(recorded)
