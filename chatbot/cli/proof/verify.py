"""The commands checkpoint and verify: sign the log's head, and verify a log or a proof against signed checkpoints."""

import argparse
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.proof.keys import read_public_key, read_public_keys, read_text_file
from chatbot.cli.proof.prove import VerifiedProof, check_proof
from chatbot.cli.proof.verify_anchors import AnchorSet, read_anchors
from chatbot.runtime.clock import timestamp
from chatbot.runtime.counted_noun import counted
from events.integrity import signed_checkpoint
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.file_check import POSITION_MAX, FileReport, NotedReferences, check_files
from events.integrity.incomplete_erasures import IncompleteErasure
from events.integrity.log_identity import log_identity
from events.integrity.merkle_tree import MerkleRoots, MerkleTree
from events.integrity.signed_checkpoint import InvalidCheckpoint, LogCheckpoint
from events.log import EventLog
from events.record import Head


class SignedCheckpoints:
    """At least one checkpoint to compare a log with.

    The newest is the expected head of the verification; the others are compared after it.
    """

    def __init__(self, checkpoints: Sequence[LogCheckpoint]) -> None:
        self.checkpoints = sorted(checkpoints, key=lambda one: one.size)
        self.tree = MerkleRoots(one.size for one in checkpoints)

    @property
    def expected_head(self) -> Head:
        return Head(self.checkpoints[-1].size, self.checkpoints[-1].digest)

    @property
    def first_position(self) -> int:
        return self.checkpoints[0].size

    async def fault(self, log: EventLog, *, with_roots: bool) -> str | None:
        """Why the verified log is not the one that was signed, as a sentence; None where it is.

        `with_roots`: `tree` has been built during the verification, so the roots can be compared.
        """
        for one in self.checkpoints:
            rows = await log.rows(after=one.size - 1, limit=1) if one.size else []
            if one.size and (not rows or rows[0].digest != one.digest):
                return (
                    f"the chain is whole, but not the one that was signed at {one.time}: event {one.size} is another,"
                    " so it was recomputed"
                )
            if with_roots and self.tree.roots.get(one.size) != one.root:
                return f"the chain agrees with the checkpoint of {one.size} events, but the tree's root does not"
        return None

    def __str__(self) -> str:
        last = self.checkpoints[-1]
        if len(self.checkpoints) == 1:
            return f"the checkpoint of {last.size} events, signed at {last.time}"
        sizes = ", ".join(str(one.size) for one in self.checkpoints[:-1])
        return f"{len(self.checkpoints)} checkpoints, of {sizes} and {last.size} events, the last signed at {last.time}"


NAMED_MAX = 20  # sessions with an incomplete erasure that one run of verify lists


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the secret key that keygen made")


async def checkpoint(context: CommandContext, options: argparse.Namespace) -> int:
    """Print a signed statement of the head. The log is verified first, and not signed if it is not intact."""
    signer = read_text_file(options.key)
    async with context.open_read_only() as log:
        head = log.head()
        if not head.position:
            raise CommandFailed("the log is empty: there is nothing to sign yet")
        tree = MerkleTree()
        fault = await _verify_chain(log, ChainVerifier(head, tree=tree), "verifying")
        if fault:
            raise CommandFailed(fault)
        origin = await log_identity(log)
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    statement = LogCheckpoint(origin, head.position, tree.close()[0], head.digest, now)
    try:
        context.print_result(signed_checkpoint.sign(statement, signer).rstrip("\n"))
    except InvalidCheckpoint as error:
        raise UsageError(f"{options.key}: {error}") from error
    return 0


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="start", metavar="POSITION:DIGEST", help="begin after an event whose digest you trust"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="signed checkpoints, all of which must agree")
    parser.add_argument("--proof", type=Path, metavar="FILE", help="check the events in a proof instead of a log")
    parser.add_argument("--partial", action="store_true", help="with --proof: accept a part of a session")
    parser.add_argument("--show", action="store_true", help="with --proof: print its events, too, as lines of JSON")
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="the public key of the signer, or a file with it; with --anchors, with a line for each key there was",
    )
    parser.add_argument(
        "--anchors",
        action="append",
        metavar="TARGET",
        help="a folder, s3:// or witness with anchors, all of which must agree; may be repeated",
    )
    parser.add_argument("--no-files", action="store_true", help="do not read the files that messages refer to")


async def verify_command(context: CommandContext, options: argparse.Namespace) -> int:
    """Verify the hash chain and the files that messages refer to, also while a server runs, or of a copied file."""
    if options.proof:
        return _verify_proof(context, options)
    _check_options(options)
    verifiers = read_public_keys(options.key) if options.anchors else []
    checkpoints, start = _read_checkpoints(options), _parse_start(options.start)
    heads = SignedCheckpoints(checkpoints) if checkpoints else None
    if start and heads and heads.first_position < start.position:
        raise UsageError("the checkpoint is older than the position to begin from: leave one of them out")
    async with context.open_read_only() as log:
        tree = heads.tree if heads and not start else None
        anchors = None
        if options.anchors:  # read before the log, which may grow and be anchored meanwhile
            anchors = await read_anchors(options.anchors, await log_identity(log), verifiers)
            tree = anchors.tree
        noted = None if options.no_files else NotedReferences()
        verifier = ChainVerifier(heads.expected_head if heads else None, start, tree, noted)
        fault = await _verify_chain(log, verifier, "verifying")
        fault = await _signed_fault(log, heads, fault, with_roots=start is None) if heads else fault
        if anchors is not None:
            fault = fault or anchors.fault(verifier.position)
        files = None
        if noted is not None and not fault:
            files = await verify_files(log, noted, after=start.position if start else 0, until=verifier.position)
    if fault:
        raise CommandFailed(fault)
    signed = f"; it agrees with {heads or anchors}" if heads or anchors else ""
    since = f" after position {start.position}" if start else ""
    upto = f", position {verifier.position}" if start else ""
    events = verifier.position - (start.position if start else 0)
    counted = f"{events} events, {verifier.erased} of them erased{upto}, digest {verifier.digest.hex()}"
    context.print_result(f"the log holds{since}: {counted}{signed}")
    if files is not None:
        _tell_files(context, files)
    if verifier.incomplete_erasures:
        raise CommandFailed(describe_unfinished_erasures(verifier.incomplete_erasures))
    if anchors is not None:
        _tell_anchors(context, anchors)
    return 0


async def verify_files(
    log: EventLog, noted: NotedReferences, *, after: int = 0, until: int = POSITION_MAX
) -> FileReport:
    """As check_files, with a progress bar where there are files."""
    progress: ProgressBar | None = None

    def reach(done: int, total: int) -> None:
        nonlocal progress
        progress = progress or ProgressBar("verifying files", total, "bytes")
        progress.reach(done)

    report = await check_files(log, noted, reach, after=after, until=until)
    if progress is not None:
        progress.close()
    return report


def _check_options(options: argparse.Namespace) -> None:
    """Raises UsageError for options that do not go together."""
    if options.partial or options.show:
        raise UsageError("--partial and --show go with --proof")
    if options.anchors and (options.checkpoint or options.start):
        raise UsageError("--anchors compares the whole log: leave out --checkpoint and --from")


async def _signed_fault(log: EventLog, heads: SignedCheckpoints, fault: str | None, *, with_roots: bool) -> str | None:
    """Why the log is not the one of the checkpoints; `fault` is what the verification has found."""
    origin = await log_identity(log)
    other = next((one.origin for one in heads.checkpoints if one.origin != origin), None)
    if other:
        return f"{fault or 'the log does not hold'}; the checkpoint is of another log, {other}"
    return fault or await heads.fault(log, with_roots=with_roots)


def _tell_anchors(context: CommandContext, anchors: AnchorSet) -> None:
    """Raises CommandFailed if a target could not be read, or has no anchor of this log."""
    if anchors.incomplete:
        context.print_note(
            f"{counted(anchors.incomplete, 'anchor is', 'anchors are')} the rest of interrupted writes, and passed over"
        )
    if anchors.silent:
        raise CommandFailed("not compared with every target: " + "; ".join(anchors.silent), ExitCode.TARGET)


def _tell_files(context: CommandContext, report: FileReport) -> None:
    """Raises CommandFailed where they do not hold."""
    if report.left_bytes:
        context.print_note(
            f"{report.left_bytes:,} bytes of deleted files are still there; the service deletes them within a minute"
        )
    if report.faults:
        raise CommandFailed(describe_file_faults(report))
    if report.files:
        context.print_result(
            f"{counted(report.files, 'file')} of {report.bytes:,} bytes {'holds' if report.files == 1 else 'hold'}"
        )
    if report.uploads:
        hours = context.settings.media.orphan_hours
        context.print_note(
            f"{counted(report.uploads, 'of these files is an upload', 'of these files are uploads')} that no message"
            f" refers to; such a file is deleted {hours:g} hours after it was sent (media.orphan_hours)"
        )


def describe_file_faults(report: FileReport) -> str:
    """A line for each of the first faults."""
    more = report.faults_in_all - len(report.faults)
    lines = [
        f"{counted(report.faults_in_all, 'file does', 'files do')} not hold:",
        *report.faults,
        *([f"and {more:,} others"] if more else []),
    ]
    return "\n".join(lines)


def describe_unfinished_erasures(incomplete_erasures: list[IncompleteErasure]) -> str:
    """Sentences that name the sessions with incomplete erasures, and the commands that complete them."""
    sessions = [one for one in incomplete_erasures if one.message_id is None]
    messages = [one for one in incomplete_erasures if one.message_id is not None]
    told = []
    if sessions:
        ids = " ".join(one.stream_id for one in sessions[:NAMED_MAX])
        told.append(
            f"content of {len(sessions):,} deleted sessions is still there, before their session_deleted:"
            f" {_named(sessions)}. Finish their erasure: chatbot erase --session {ids}"
        )
    if messages:
        first = messages[0]
        told.append(
            f"redacted content is still there in {len(messages):,} sessions: {_named(messages)}. Redact the message"
            f" once more: chatbot redact {first.stream_id} {first.message_id} --reason-code CODE"
        )
    return "\n".join(told)


def _named(incomplete_erasures: list[IncompleteErasure]) -> str:
    named = ", ".join(f"{one.stream_id} (position {one.position})" for one in incomplete_erasures[:NAMED_MAX])
    return f"{named} and others" if len(incomplete_erasures) > NAMED_MAX else named


def _verify_proof(context: CommandContext, options: argparse.Namespace) -> int:
    checked = check_proof(read_text_file(options.proof), read_public_key(options.key), partial=options.partial)
    checkpoints = _read_checkpoints(options)
    if checkpoints and checked.checkpoint not in checkpoints:
        raise CommandFailed("the proof leads to another checkpoint than this one")
    context.print_result(_describe_proof(checked))
    if options.show:
        for event in checked.events:
            context.print_json(
                ShownEvent(event.version, _format_time(event.recorded_at), event.type, event.metadata, event.data)
            )
    return 0


class ShownEvent(Struct, frozen=True):
    """A line of --show. `metadata` and `data` are the recorded texts; `data` is null once erased."""

    version: int
    recorded_at: str
    type: str
    metadata: str
    data: str | None


def _describe_proof(checked: VerifiedProof) -> str:
    """What the proof proves, and what it does not."""
    events, signed = checked.events, checked.checkpoint
    first, last = events[0], events[-1]
    erased = sum(event.data is None for event in events)
    left = f" ({erased} of them erased: their envelopes only)" if erased else ""
    lines = [
        f"{len(events)} events{left} are in the log of {signed.origin}, as signed at {signed.time}",
        f"session {first.stream_id}, versions {first.version} to {last.version},"
        f" recorded {_format_time(first.recorded_at)} to {_format_time(last.recorded_at)}",
    ]
    if checked.is_partial:
        lines.append(f"this proof is PARTIAL: {checked.missing_part}")
    if checked.range is None:
        lines.append("it was made by version 0.4 or older and does not state which events it should hold")
    lines.append(f"not proven: that the session has no events after version {last.version}")
    return "\n".join(lines)


def _format_time(us: int) -> str:
    try:
        return timestamp(us)
    except (ValueError, OverflowError):  # proven, but beyond every calendar
        return f"{us} us"


async def _verify_chain(log: EventLog, verifier: ChainVerifier, what: str) -> str | None:
    """The first fault of the log, as a sentence; None where it is intact."""
    progress = ProgressBar(what, log.head().position)
    _, fault = await verify(log, verifier, progress.reach)
    progress.close()
    return f"the log does not hold at position {fault.position}: {fault.reason}" if fault else None


def _read_checkpoints(options: argparse.Namespace) -> list[LogCheckpoint]:
    """The checkpoints in the file that --checkpoint names; none without that option. Raises CommandFailed."""
    if options.checkpoint is None:
        return []
    try:
        return signed_checkpoint.read_all(read_text_file(options.checkpoint), read_public_key(options.key))
    except InvalidCheckpoint as error:
        raise CommandFailed(f"{options.checkpoint}: {error}") from error


def _parse_start(text: str | None) -> Head | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", text)
    if not found:
        raise UsageError("--from is POSITION:DIGEST, as verify and /api/audit/head print them")
    return Head(int(found[1]), bytes.fromhex(found[2]))
