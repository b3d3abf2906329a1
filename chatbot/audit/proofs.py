"""Inclusion proofs: events of one session, checked against a signed checkpoint without the rest of the log.

A proof is one JSON document: the checkpoint as it was signed, and for each event its columns (content as the very text
that was hashed), the digest before it, and its audit path in the Merkle tree (RFC 9162, 2.1.3).
"""

import argparse
import struct
from pathlib import Path

import msgspec
from msgspec import Struct

from chatbot.audit.desk import CommandFailed, Desk, Progress
from events import checkpoint as notes
from events.archive import Columns, columns_of
from events.chain import GENESIS, SALT_BYTES, commit, link
from events.checkpoint import BadCheckpoint, Checkpoint
from events.log import EventLog
from events.merkle import Tree, root_from
from events.record import StoredRow

PAGE = 1000  # rows read at once


class ProvenEvent(Columns, frozen=True):
    """One row of the log, the digest before it, and its audit path.

    Of an erased event the envelope is proven, and that there was a content, but not what it said.
    """

    previous: str
    path: list[str]


class Proof(Struct, frozen=True):
    checkpoint: str
    events: list[ProvenEvent]


def prove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", required=True, metavar="ID", help="the session whose events are to be proven")
    parser.add_argument("--version", type=int, metavar="N", help="only this event of it")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="the signed checkpoint")


async def prove(desk: Desk, options: argparse.Namespace) -> int:
    """A proof on standard output, to be checked with `verify --proof FILE --key KEY` by someone without the log."""
    try:
        note = options.checkpoint.read_text()
        stated = notes.parse(note)
    except (OSError, UnicodeDecodeError, BadCheckpoint) as error:
        raise CommandFailed(f"{options.checkpoint}: {error}", 2) from error
    async with desk.reading() as log:
        rows = await _rows_of(log, options.session, options.version)
        old = {at: row for at, row in rows.items() if 0 < at <= stated.size}
        if not old:
            raise CommandFailed("the checkpoint is older than these events, or the log has none of them")
        if len(old) < len(rows):
            desk.note(f"{len(rows) - len(old)} newer events are not in the checkpoint and so not in the proof")
        root, paths, before = await _paths(log, stated, set(old))
    if root != stated.root:
        raise CommandFailed("the log does not agree with the checkpoint: verify it")
    proof = Proof(note, [_proven(row, before[at], paths[at - 1]) for at, row in sorted(old.items())])
    for event in proof.events:
        fault = _fault_of(event, stated)
        if fault:  # the digests are as they were signed, the row is not
            raise CommandFailed(f"event {event.version}, at position {event.position}, cannot be proven: {fault}")
    desk.say_json(proof)
    return 0


def check_proof(text: str, verifier: str) -> tuple[list[ProvenEvent], Checkpoint]:
    """The events that the proof shows to be in the log that its checkpoint states. Raises CommandFailed."""
    try:
        proof = msgspec.json.decode(text, type=Proof)
        stated = notes.read(proof.checkpoint, verifier)
    except (msgspec.DecodeError, BadCheckpoint) as error:
        raise CommandFailed(f"this proves nothing: {error}") from error
    if not proof.events:
        raise CommandFailed("this proves nothing: it holds no events")
    for event in proof.events:
        fault = _fault_of(event, stated)
        if fault:
            raise CommandFailed(f"event {event.version} of {event.stream_id} is not proven: {fault}")
    return proof.events, stated


def _fault_of(event: ProvenEvent, stated: Checkpoint) -> str | None:
    try:
        return _fault(event, stated)
    except (ValueError, TypeError, struct.error) as error:
        return f"a column holds what no log writes: {error}"


def _fault(event: ProvenEvent, stated: Checkpoint) -> str | None:
    commitment, previous = bytes.fromhex(event.commitment), bytes.fromhex(event.previous)
    salt = None if event.salt is None else bytes.fromhex(event.salt)
    lengths = (len(commitment), len(previous), SALT_BYTES if salt is None else len(salt))
    if lengths != (len(GENESIS), len(GENESIS), SALT_BYTES):  # else bytes could be moved between neighbours
        return "a hash or the salt has another length than any log writes"
    if (event.data is None) != (salt is None):
        return "content and salt are erased together"
    if event.data is not None and commit(salt or b"", event.data.encode()) != commitment:
        return "its content was changed"
    numbers = (event.position, event.version, event.schema_version, event.recorded_at)
    texts = (event.stream_id, event.type, event.metadata)
    digest = link(previous, numbers, texts, commitment)
    path = [bytes.fromhex(sibling) for sibling in event.path]
    if root_from(digest, event.position - 1, stated.size, path) != stated.root:
        return "it does not lead to the root that was signed"
    return None


async def _rows_of(log: EventLog, session_id: str, version: int | None) -> dict[int, StoredRow]:
    """The rows of a session by position."""
    found: dict[int, StoredRow] = {}
    after = 0
    while events := await log.read(session_id, after=after, limit=PAGE):
        for event in events:
            if version is None or event.version == version:
                (found[event.position],) = await log.rows(after=event.position - 1, limit=1)
        after = events[-1].version
    return found


async def _paths(
    log: EventLog, stated: Checkpoint, wanted: set[int]
) -> tuple[bytes, dict[int, list[bytes]], dict[int, bytes]]:
    """The root at the checkpoint, the path of each wanted position (by index, from 0), and the digest before it."""
    tree, progress = Tree(position - 1 for position in wanted), Progress("proving", stated.size)
    before: dict[int, bytes] = {}
    previous, at = GENESIS, 0
    while at < stated.size:
        for row in await log.rows(after=at, limit=min(PAGE, stated.size - at)):
            if row.position in wanted:
                before[row.position] = previous
            tree.add(row.digest)
            previous = row.digest
        if tree.size == at:
            raise CommandFailed(f"the log ends at position {at}, but the checkpoint states {stated.size} events")
        at = tree.size
        progress.reach(at)
    progress.close()
    root, paths = tree.close()
    return root, paths, before


def _proven(row: StoredRow, previous: bytes, path: list[bytes]) -> ProvenEvent:
    return ProvenEvent(**columns_of(row), previous=previous.hex(), path=[sibling.hex() for sibling in path])
