"""Proofs that events of one session are in the log of a signed checkpoint, checkable without the rest of the log.

A proof is one JSON document: which versions of which session it contains, the checkpoint as it was signed, and for each
event its columns (content as the very text that was hashed), the digest before it, and its audit path in the Merkle
tree (RFC 9162, 2.1.3). The versions have no gaps, so an event removed from the middle is detected. They begin at 1
unless the proof says that it is partial.

Only the events are proven. The range itself is a claim of the prover: that the session has no event after the last one
cannot be proven without the whole log.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from msgspec import Struct

from chatbot.runtime.throttle import PIECE_BYTES, PIECE_ROWS, DutyCycleThrottle
from events.integrity.hash_chain import DIGEST_BYTES, GENESIS, SALT_BYTES, link
from events.integrity.merkle_tree import MerkleTree, root_from_path
from events.integrity.row_checks import MALFORMED, check_commitment
from events.integrity.signed_checkpoint import LogCheckpoint
from events.log import EventLog
from events.record import StoredRow
from events.transfer.export_format import ExportColumns, to_export_columns, to_stored_row

FORMAT_NAME = "chatbot-proof"
# 1 is that of version 0.4, which has no format, session and range. 3 has events with parts, whose salts are longer: a
# proof without them is still written as 2, which older programs read.
FORMAT_VERSION = 3
PLAIN_FORMAT_VERSION = 2


class ProofFailed(Exception):
    """The proof cannot be made: the sentence says why."""


class ProvenEvent(ExportColumns, frozen=True):
    """One row of the log, the digest before it, and its audit path.

    For an erased event the proof covers the envelope and the commitment to its content, but no content.
    """

    previous: str
    path: list[str]


class Range(Struct, frozen=True):
    """Which versions of which session a proof contains, without gaps. `partial`: others were left out."""

    session: str
    first_version: int
    last_version: int
    partial: bool = False


class Proof(Struct, frozen=True):
    """`range` is None in a proof of format 1."""

    checkpoint: str
    events: list[ProvenEvent]
    format: str = FORMAT_NAME
    version: int = 1
    range: Range | None = None


class AuditPaths(Struct, frozen=True):
    """The path from each wanted position to the root of the checkpoint, and the digest before it."""

    paths: dict[int, list[bytes]]
    before: dict[int, bytes]


def build_proof(
    note: str, checkpoint: LogCheckpoint, rows: Sequence[StoredRow], found: AuditPaths, *, partial: bool = False
) -> Proof:
    """The proof of the rows of one session, in order, all of them in the log of the checkpoint, whose text is `note`.

    Raises ProofFailed where a row is not the one that was signed.
    """
    events = [_prove_row(row, found.before[row.position], found.paths[row.position]) for row in rows]
    span = Range(rows[0].stream_id, events[0].version, events[-1].version, partial)
    fault = range_fault(events, span)
    for event in events:
        fault = fault or event_fault(event, checkpoint)
        if fault:  # the digests are those that were signed, but the row was changed
            raise ProofFailed(f"event {event.version}, at position {event.position}, cannot be proven: {fault}")
    has_parts = any(row.salt is not None and len(row.salt) > SALT_BYTES for row in rows)
    return Proof(note, events, FORMAT_NAME, FORMAT_VERSION if has_parts else PLAIN_FORMAT_VERSION, span)


async def read_audit_paths(
    log: EventLog,
    checkpoint: LogCheckpoint,
    positions: Iterable[int],
    *,
    on_progress: Callable[[int], None] = lambda _position: None,
    throttle: DutyCycleThrottle | None = None,
) -> AuditPaths:
    """The audit paths of the events at these positions, which the checkpoint covers. Reads the whole log up to it;
    memory: about 250 bytes for each position. Raises ProofFailed where the log is not the one that was signed.
    """
    throttle = throttle or DutyCycleThrottle(rest_ratio=0)
    wanted = frozenset(positions)
    tree = MerkleTree(position - 1 for position in wanted)
    before: dict[int, bytes] = {}
    previous = GENESIS
    while tree.size < checkpoint.size:
        async with throttle.piece():
            limit = min(PIECE_ROWS, checkpoint.size - tree.size)
            page = await log.rows(after=tree.size, limit=limit, bytes_max=PIECE_BYTES)
            if not page:
                raise ProofFailed(
                    f"the log ends at position {tree.size}, but the checkpoint states {checkpoint.size} events"
                )
            for row in page:
                if row.position in wanted:
                    before[row.position] = previous
                tree.add(row.digest)
                previous = row.digest
        on_progress(tree.size)
    root, paths = tree.close()
    if root != checkpoint.root:
        raise ProofFailed("the log does not agree with the checkpoint: verify it")
    return AuditPaths({index + 1: path for index, path in paths.items()}, before)


def gap_fault(events: list[ProvenEvent]) -> str | None:
    """Which events between the first and the last are missing."""
    for before, event in pairwise(events):
        if event.version != before.version + 1:
            return f"events are missing between versions {before.version} and {event.version}"
    return None


def range_fault(events: list[ProvenEvent], span: Range) -> str | None:
    """Why the events are not those of the range `span`."""
    if events[0].stream_id != span.session:
        return f"it states session {span.session}, but holds events of {events[0].stream_id}"
    if (events[0].version, events[-1].version) != (span.first_version, span.last_version):
        return (
            f"it states versions {span.first_version} to {span.last_version}, but holds {events[0].version} to"
            f" {events[-1].version}"
        )
    if span.first_version != 1 and not span.partial:
        return f"it begins at version {span.first_version} and does not say that it is partial"
    return gap_fault(events)


def event_fault(event: ProvenEvent, checkpoint: LogCheckpoint) -> str | None:
    """Why the event is not proven to be in the log of the checkpoint."""
    try:
        row, previous = to_stored_row(event, b""), bytes.fromhex(event.previous)
        path = [bytes.fromhex(sibling) for sibling in event.path]
    except ValueError as error:
        return f"a column holds what no log writes: {error}"
    if any(len(hashed) != DIGEST_BYTES for hashed in (previous, *path)):
        return "a hash has another length than any log writes"
    fault = check_commitment(row)
    if fault:
        return fault
    numbers = (row.position, row.version, row.schema_version, row.recorded_at_us)
    try:
        digest = link(previous, numbers, (row.stream_id, row.type, row.metadata), row.commitment)
    except MALFORMED as error:
        return f"a column holds what no log writes: {error}"
    if root_from_path(digest, event.position - 1, checkpoint.size, path) != checkpoint.root:
        return "it does not lead to the root that was signed"
    return None


def _prove_row(row: StoredRow, previous: bytes, path: list[bytes]) -> ProvenEvent:
    return ProvenEvent(**to_export_columns(row), previous=previous.hex(), path=[sibling.hex() for sibling in path])
