"""The command prove, and the check of what it prints; chatbot/audit/session_proof.py has the form of a proof."""

import argparse
from itertools import pairwise
from pathlib import Path

import msgspec
from msgspec import Struct

from chatbot.audit.session_proof import (
    FORMAT_NAME,
    FORMAT_VERSION,
    Proof,
    ProofFailed,
    ProvenEvent,
    Range,
    build_proof,
    event_fault,
    gap_fault,
    range_fault,
    read_audit_paths,
)
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from events.integrity import signed_checkpoint
from events.integrity.signed_checkpoint import InvalidCheckpoint, LogCheckpoint
from events.log import EventLog
from events.record import StoredRow

PAGE = 1000  # rows of a session read at once


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
            or gap_fault(self.events) is not None
            or (self.range is not None and self.range.partial)
        )

    @property
    def missing_part(self) -> str:
        """What is missing, as part of a sentence."""
        first, last = self.events[0].version, self.events[-1].version
        return gap_fault(self.events) or f"it holds versions {first} to {last} only"


def add_prove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", required=True, metavar="ID", help="the session whose events are to be proven")
    parser.add_argument("--version", type=int, metavar="N", help="with --partial: only this event of it")
    parser.add_argument("--partial", action="store_true", help="prove only a part of the session; the proof says so")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="the signed checkpoint")


async def prove(context: CommandContext, options: argparse.Namespace) -> int:
    """Print a proof, which can be checked without the log: `verify --proof FILE --key KEY`."""
    if (options.version is not None) != options.partial:
        raise UsageError("--version N and --partial go together: a single event is a partial proof")
    note, checkpoint = read_one_checkpoint(options.checkpoint)
    async with context.open_read_only() as log:
        rows = await _read_rows(log, options.session, options.version)
        old = {at: row for at, row in rows.items() if 0 < at <= checkpoint.size}
        if not old:
            raise CommandFailed("the checkpoint is older than these events, or the log has none of them")
        if len(old) < len(rows):
            context.print_note(f"{len(rows) - len(old)} newer events are not in the checkpoint and so not in the proof")
        progress = ProgressBar("proving", checkpoint.size)
        try:
            found = await read_audit_paths(log, checkpoint, old, on_progress=progress.reach)
            proof = build_proof(note, checkpoint, [old[at] for at in sorted(old)], found, partial=options.partial)
        except ProofFailed as error:
            raise CommandFailed(str(error)) from error
        finally:
            progress.close()
    context.print_json(proof)
    return 0


def read_one_checkpoint(path: Path) -> tuple[str, LogCheckpoint]:
    """The text of a checkpoint, and what it states. The signature is not checked. Raises UsageError."""
    try:
        note = path.read_text().removeprefix(signed_checkpoint.BOM)
        if len(signed_checkpoint.split_notes(note)) != 1:
            raise UsageError(f"{path} holds several checkpoints: name a file with one")
        return note, signed_checkpoint.parse(note)
    except (OSError, UnicodeDecodeError, InvalidCheckpoint) as error:
        raise UsageError(f"{path}: {error}") from error


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
        fault = event_fault(event, checkpoint)
        if fault:
            raise CommandFailed(f"event {event.version} of {event.stream_id} is not proven: {fault}")
    fault = _order_fault(proof.events)
    if fault is None and proof.range is not None:
        fault = range_fault(proof.events, proof.range)
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


async def _read_rows(log: EventLog, session_id: str, version: int | None) -> dict[int, StoredRow]:
    """The rows of a session by position; not decoded, as a row that was tampered with may not be readable."""
    found: dict[int, StoredRow] = {}
    after = 0
    while page := await log.stream_rows(session_id, after=after, limit=PAGE):
        found |= {row.position: row for row in page if version in (None, row.version)}
        after = page[-1].version
    return found
