"""Inclusion proofs: events of one session can be checked against a signed checkpoint without the rest of the log.

A proof is one JSON document: which versions of which session it contains, the checkpoint as it was signed, and for each
event its columns (content as the very text that was hashed), the digest before it, and its audit path in the Merkle
tree (RFC 9162, 2.1.3). The versions have no gaps, so an event removed from the middle is detected. They begin at 1
unless the proof says that it is partial.

Only the events are proven. The range itself is a claim of the prover: that the session has no event after the last one
cannot be proven without the whole log.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec import Struct

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from events.integrity import signed_checkpoint
from events.integrity.hash_chain import DIGEST_BYTES, GENESIS, SALT_BYTES, link
from events.integrity.merkle_tree import MerkleTree, root_from_path
from events.integrity.row_checks import MALFORMED, check_commitment
from events.integrity.signed_checkpoint import InvalidCheckpoint, LogCheckpoint
from events.log import EventLog
from events.record import StoredRow
from events.transfer.export_format import ExportColumns, to_export_columns, to_stored_row

PAGE = 1000  # rows read at once
FORMAT_NAME = "chatbot-proof"
# 1 is that of version 0.4, which has no format, session and range. 3 has events with parts, whose salts are longer: a
# proof without them is still written as 2, which older programs read.
FORMAT_VERSION = 3
PLAIN_FORMAT_VERSION = 2


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


class VerifiedProof(Struct, frozen=True):
    """Events that are in the log of the signed checkpoint `checkpoint`, in order. `range` is None in format 1."""

    events: list[ProvenEvent]
    checkpoint: LogCheckpoint
    range: Range | None

    @property
    def is_partial(self) -> bool:
        """Whether earlier events of the session are missing, or the proof says that it is partial."""
        return (
            self.events[0].version != 1
            or _gap_fault(self.events) is not None
            or (self.range is not None and self.range.partial)
        )

    @property
    def missing_part(self) -> str:
        """What is missing, as part of a sentence."""
        first, last = self.events[0].version, self.events[-1].version
        return _gap_fault(self.events) or f"it holds versions {first} to {last} only"


def add_prove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", required=True, metavar="ID", help="the session whose events are to be proven")
    parser.add_argument("--version", type=int, metavar="N", help="with --partial: only this event of it")
    parser.add_argument("--partial", action="store_true", help="prove only a part of the session; the proof says so")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="the signed checkpoint")


async def prove(context: CommandContext, options: argparse.Namespace) -> int:
    """Print a proof, which can be checked without the log: `verify --proof FILE --key KEY`."""
    if (options.version is not None) != options.partial:
        raise UsageError("--version N and --partial go together: a single event is a partial proof")
    try:
        note = options.checkpoint.read_text().removeprefix(signed_checkpoint.BOM)
        if len(signed_checkpoint.split_notes(note)) != 1:
            raise UsageError(f"{options.checkpoint} holds several checkpoints: name a file with one")
        checkpoint = signed_checkpoint.parse(note)
    except (OSError, UnicodeDecodeError, InvalidCheckpoint) as error:
        raise UsageError(f"{options.checkpoint}: {error}") from error
    async with context.open_read_only() as log:
        rows = await _read_rows(log, options.session, options.version)
        old = {at: row for at, row in rows.items() if 0 < at <= checkpoint.size}
        if not old:
            raise CommandFailed("the checkpoint is older than these events, or the log has none of them")
        if len(old) < len(rows):
            context.print_note(f"{len(rows) - len(old)} newer events are not in the checkpoint and so not in the proof")
        root, paths, before = await _read_audit_paths(log, checkpoint, set(old))
    if root != checkpoint.root:
        raise CommandFailed("the log does not agree with the checkpoint: verify it")
    events = [_prove_row(row, before[at], paths[at - 1]) for at, row in sorted(old.items())]
    span = Range(options.session, events[0].version, events[-1].version, options.partial)
    fault = _range_fault(events, span)
    for event in events:
        fault = fault or _event_fault(event, checkpoint)
        if fault:  # the digests are those that were signed, but the row was changed
            raise CommandFailed(f"event {event.version}, at position {event.position}, cannot be proven: {fault}")
    has_parts = any(row.salt is not None and len(row.salt) > SALT_BYTES for row in old.values())
    version = FORMAT_VERSION if has_parts else PLAIN_FORMAT_VERSION
    context.print_json(Proof(note, events, FORMAT_NAME, version, span))
    return 0


def check_proof(text: str, verifier: str, *, partial: bool = False) -> VerifiedProof:
    """The events that the proof `text` proves to be in the log of its checkpoint, signed with the key of `verifier`.

    With `partial`, earlier events of the session may be missing. Raises CommandFailed.
    """
    proof = _parse_proof(text)
    try:
        checkpoint = signed_checkpoint.read(proof.checkpoint, verifier)
    except InvalidCheckpoint as error:
        raise CommandFailed(f"this proves nothing: {error}") from error
    for event in proof.events:
        fault = _event_fault(event, checkpoint)
        if fault:
            raise CommandFailed(f"event {event.version} of {event.stream_id} is not proven: {fault}")
    fault = _order_fault(proof.events)
    if fault is None and proof.range is not None:
        fault = _range_fault(proof.events, proof.range)
    if fault:
        raise CommandFailed(f"the events of this proof are in the log, but {fault}")
    checked = VerifiedProof(proof.events, checkpoint, proof.range)
    if checked.is_partial and not partial:
        raise CommandFailed(
            f"this is no proof of a whole session: {checked.missing_part}; --partial accepts it as a part"
        )
    return checked


def _parse_proof(text: str) -> Proof:
    """Raises CommandFailed."""
    try:
        proof = msgspec.json.decode(text, type=Proof)
    except msgspec.DecodeError as error:
        raise CommandFailed(f"this proves nothing: {error}") from error
    if proof.format != FORMAT_NAME or not 1 <= proof.version <= FORMAT_VERSION:
        raise CommandFailed(
            f"this is {proof.format!r} version {proof.version}, but this program reads {FORMAT_NAME!r} up to version"
            f" {FORMAT_VERSION}: update the program"
        )
    if (proof.range is None) != (proof.version == 1):
        raise CommandFailed("this proves nothing: proofs state the range of their events from format 2 on")
    if not proof.events:
        raise CommandFailed("this proves nothing: it holds no events")
    return proof


def _order_fault(events: list[ProvenEvent]) -> str | None:
    """Why these are not events of one session in order."""
    for before, event in pairwise(events):
        if event.stream_id != before.stream_id:
            return f"it holds events of two sessions, {before.stream_id} and {event.stream_id}"
        if event.version <= before.version or event.position <= before.position:
            return f"version {event.version} stands after version {before.version}"
    return None


def _gap_fault(events: list[ProvenEvent]) -> str | None:
    """Which events between the first and the last are missing."""
    for before, event in pairwise(events):
        if event.version != before.version + 1:
            return f"events are missing between versions {before.version} and {event.version}"
    return None


def _range_fault(events: list[ProvenEvent], span: Range) -> str | None:
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
    return _gap_fault(events)


def _event_fault(event: ProvenEvent, checkpoint: LogCheckpoint) -> str | None:
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


async def _read_rows(log: EventLog, session_id: str, version: int | None) -> dict[int, StoredRow]:
    """The rows of a session by position; not decoded, as a row that was tampered with may not be readable."""
    found: dict[int, StoredRow] = {}
    after = 0
    while page := await log.stream_rows(session_id, after=after, limit=PAGE):
        found |= {row.position: row for row in page if version in (None, row.version)}
        after = page[-1].version
    return found


async def _read_audit_paths(
    log: EventLog, checkpoint: LogCheckpoint, positions: set[int]
) -> tuple[bytes, dict[int, list[bytes]], dict[int, bytes]]:
    """The Merkle root at the checkpoint; of each of `positions` its path (by index, from 0) and the digest before."""
    tree, progress = MerkleTree(position - 1 for position in positions), ProgressBar("proving", checkpoint.size)
    before: dict[int, bytes] = {}
    previous, reached = GENESIS, 0
    while reached < checkpoint.size:
        for row in await log.rows(after=reached, limit=min(PAGE, checkpoint.size - reached)):
            if row.position in positions:
                before[row.position] = previous
            tree.add(row.digest)
            previous = row.digest
        if tree.size == reached:
            raise CommandFailed(
                f"the log ends at position {reached}, but the checkpoint states {checkpoint.size} events"
            )
        reached = tree.size
        progress.reach(reached)
    progress.close()
    root, paths = tree.close()
    return root, paths, before


def _prove_row(row: StoredRow, previous: bytes, path: list[bytes]) -> ProvenEvent:
    return ProvenEvent(**to_export_columns(row), previous=previous.hex(), path=[sibling.hex() for sibling in path])
