"""Writes anchors: verifies what is new in the log, compares the log with the newest anchors, signs, and writes.

The Merkle tree is kept from one anchor to the next, so only the first one reads the whole log.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from chatbot.anchors.anchor_target import (
    AnchorTarget,
    NewAnchor,
    ProofMissing,
    TargetAhead,
    TargetContradicts,
    TargetUnavailable,
)
from events.integrity import signed_checkpoint
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.consistency_proof import ConsistencyTree
from events.integrity.log_identity import log_identity
from events.integrity.signed_checkpoint import InvalidCheckpoint, LogCheckpoint
from events.log import EventLog
from events.record import Head

PASSES_MAX = 2  # over the log for one anchor: a witness may want a proof since a size that only its refusal names


NOT_SIGNED = "nothing was signed, as another target's anchor contradicts the log"
PROOF_REFUSED = "a witness wants a proof since another size at each attempt"


class Outcome(Enum):
    """What became of an anchor at one target."""

    WRITTEN = "written"
    PRESENT = "present"  # the target has an anchor of this size, or a larger one by another node
    FAILED = "failed"  # the target cannot be read or written now
    CONTRADICTED = "contradicted"  # the target's anchor is not of this log: rolled back, or rewritten


class AnchorResult(Struct, frozen=True):
    """`reason` says why it failed, or what contradicts the log."""

    target: str
    outcome: Outcome
    reason: str | None = None


class TargetState(Struct):
    """What is known of a target: its newest anchor that was signed with our key. Not `is_read`: nothing yet."""

    target: AnchorTarget
    newest: LogCheckpoint | None = None
    is_read: bool = False


class LogNotIntact(Exception):
    """The log is not signed, as it is not intact: the sentence says where."""


class AnchorWriter:
    """One for each log; its methods are called one after the other. `signer` is a secret key as `keygen` writes it.

    `rows` is what the log is read through, such as a throttle; `progress` as of `verify`.
    """

    def __init__(
        self,
        log: EventLog,
        targets: Sequence[AnchorTarget],
        signer: str,
        rows: EventLog | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Raises InvalidCheckpoint if `signer` is no secret key."""
        self.states = [TargetState(target) for target in targets]
        self._log = log
        self._rows = rows or log
        self._signer = signer
        self._verifier = signed_checkpoint.public_key_of(signer)
        self._progress = progress
        self._tree: ConsistencyTree | None = None
        self._head: Head | None = None  # that of the tree

    async def anchor(self) -> list[AnchorResult]:
        """Anchor the log as it is now at each target that has no anchor of it; a result for each target.

        Nothing is signed if an anchor contradicts the log. Empty for an empty log. Raises LogNotIntact, LogUnavailable.
        """
        if (await self._log.latest()).position == 0:
            return []
        origin = await log_identity(self._log)
        results = await self.read_newest(origin)
        head = await self._log.latest()  # after that, as another node may have written an anchor meanwhile
        for _ in range(PASSES_MAX):
            tree = await self._advance(head)
            contradictions = {id(one): why for one in self.states if (why := _contradiction(one.newest, tree, head))}
            if contradictions:
                return [_refuse(one, contradictions.get(id(one))) for one in self.states]
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            checkpoint = LogCheckpoint(origin, head.position, tree.root(), head.digest, now)
            anchor = NewAnchor(checkpoint, signed_checkpoint.sign(checkpoint, self._signer), tree)
            try:
                for state in self._in_order():
                    if id(state) not in results:
                        found = results[id(state)] = await self._write(state, anchor)
                        if found.outcome is Outcome.WRITTEN and state.target.cosignature:
                            anchor = replace(anchor, note=anchor.note + state.target.cosignature)
            except ProofMissing:
                self._tree = None  # the next pass collects it
                continue
            tree.mark()
            self._forget_old_sizes(tree)
            break
        return [results.get(id(one)) or _refuse(one, None, PROOF_REFUSED) for one in self.states]

    async def read_newest(self, origin: str) -> dict[int, AnchorResult]:
        """Read the newest anchor of the targets that are not known yet. The results of those that failed, by state."""

        async def read(state: TargetState) -> AnchorResult | None:
            try:
                text = await state.target.newest(origin)
            except TargetUnavailable as error:
                return AnchorResult(state.target.name, Outcome.FAILED, str(error))
            state.is_read = True
            try:
                state.newest = None if text is None else signed_checkpoint.read(text, self._verifier)
            except InvalidCheckpoint:
                state.newest = None  # by an earlier key, or a forgery: `verify --anchors` tells which
            return None

        unknown = [state for state in self.states if not state.is_read]
        results = await asyncio.gather(*map(read, unknown))
        return {id(state): found for state, found in zip(unknown, results, strict=True) if found is not None}

    async def close(self) -> None:
        for state in self.states:
            await state.target.close()

    async def _advance(self, head: Head) -> ConsistencyTree:
        """The tree of the log up to `head`; only what is new is read, and verified."""
        tree, start, sizes = self._tree, self._head, self._sizes()
        if tree is None or start is None or any(size <= tree.size and size not in tree.roots for size in sizes):
            tree, start = ConsistencyTree(sizes), None
        self._tree = None  # until it is complete
        if tree.size < head.position:
            verifier = ChainVerifier(head, start, tree)
            _, fault = await verify(self._rows, verifier, self._progress, until=head.position)
            if fault is not None:
                raise LogNotIntact(f"the log does not hold at position {fault.position}: {fault.reason}")
        self._tree, self._head = tree, head
        return tree

    def _in_order(self) -> list[TargetState]:
        """Witnesses first, so that their signatures are kept by the others."""
        return sorted(self.states, key=lambda state: not state.target.signs)

    def _sizes(self) -> set[int]:
        """The sizes at which the tree's root, and the proof since then, are needed."""
        newest = {one.newest.size for one in self.states if one.newest is not None}
        return newest | {one.target.proof_size for one in self.states} - {0}

    def _forget_old_sizes(self, tree: ConsistencyTree) -> None:
        for size in tree.roots.keys() - self._sizes() - {0, tree.size}:
            tree.forget(size)

    async def _write(self, state: TargetState, anchor: NewAnchor) -> AnchorResult:
        name, size = state.target.name, anchor.checkpoint.size
        if state.newest is not None and state.newest.size == size:
            return AnchorResult(name, Outcome.PRESENT)
        try:
            is_new = await state.target.write(anchor)
        except TargetUnavailable as error:
            return AnchorResult(name, Outcome.FAILED, str(error))
        except TargetContradicts as error:
            return AnchorResult(name, Outcome.CONTRADICTED, str(error))
        except TargetAhead as error:
            if (await self._log.latest()).position >= error.size:
                state.is_read = False
                return AnchorResult(name, Outcome.PRESENT)  # another node was faster
            return AnchorResult(name, Outcome.CONTRADICTED, _rolled_back(error.size, size))
        state.newest = anchor.checkpoint
        return AnchorResult(name, Outcome.WRITTEN if is_new else Outcome.PRESENT)


def _contradiction(newest: LogCheckpoint | None, tree: ConsistencyTree, head: Head) -> str | None:
    """Why the log as of `head` is not the one of the anchor; None if it is, or there is no anchor."""
    if newest is None or newest.size == 0:
        return None
    if newest.size > head.position:
        return _rolled_back(newest.size, head.position)
    if tree.roots.get(newest.size) != newest.root:
        return f"the anchor of {newest.size} events, signed at {newest.time}, has another root: the log was rewritten"
    return None


def _refuse(state: TargetState, contradiction: str | None, reason: str = NOT_SIGNED) -> AnchorResult:
    outcome = Outcome.FAILED if contradiction is None else Outcome.CONTRADICTED
    return AnchorResult(state.target.name, outcome, contradiction or reason)


def _rolled_back(anchored: int, size: int) -> str:
    return f"an anchor of {anchored} events exists, but the log has {size}: it was rolled back"
