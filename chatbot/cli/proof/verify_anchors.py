"""`verify --anchors`: compares a log with all its anchors, and them with each other, in one pass over the log."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import pairwise

from msgspec import Struct

from chatbot.anchors.anchor_target import Anchor, AnchorTarget, TargetUnavailable, anchor_name, is_incomplete
from chatbot.cli.proof.anchor import open_targets
from chatbot.runtime.counted_noun import counted
from events.integrity import signed_checkpoint
from events.integrity.merkle_tree import MerkleRoots
from events.integrity.signed_checkpoint import InvalidCheckpoint, LogCheckpoint


class ReadAnchor(Struct, frozen=True):
    """An anchor whose signature fits."""

    anchor: Anchor
    checkpoint: LogCheckpoint


class _TargetAnchors(Struct, frozen=True):
    """What one target gave. `silent` says why it proves nothing, `fault` which of its anchors is none of this log's."""

    anchors: tuple[ReadAnchor, ...] = ()
    incomplete: int = 0
    silent: str | None = None
    fault: str | None = None


class AnchorSet:
    """The anchors of all targets, by size. `tree` has to get the digests of the log."""

    def __init__(self, found: Sequence[_TargetAnchors]) -> None:
        self._anchors = sorted((one for part in found for one in part.anchors), key=lambda one: one.checkpoint.size)
        self._faults = [part.fault for part in found if part.fault is not None]
        self._targets = sum(bool(part.anchors) for part in found)
        self.silent = [part.silent for part in found if part.silent is not None]
        self.incomplete = sum(part.incomplete for part in found)
        self.tree = MerkleRoots(one.checkpoint.size for one in self._anchors)

    def fault(self, events: int) -> str | None:
        """Why a log of so many events, whose digests `tree` has got, is not the one of the anchors; None if it is.

        Names the first anchor that does not agree.
        """
        if self._faults:
            return self._faults[0]
        for first, second in pairwise(self._anchors):
            size = first.checkpoint.size
            if size == second.checkpoint.size and first.checkpoint.root != second.checkpoint.root:
                return (
                    f"the anchors contradict each other: {first.anchor} and {second.anchor} state two trees of {size}"
                    " events, so two logs were shown"
                )
        agreed = 0
        for one in self._anchors:
            size = one.checkpoint.size
            if size > events:
                return (
                    f"the log was rolled back: it has {events} events, but {one.anchor}, signed at"
                    f" {one.checkpoint.time}, states {size}"
                )
            if self.tree.roots.get(size) != one.checkpoint.root:
                return (
                    f"the log was rewritten between the events {agreed + 1} and {size}: {one.anchor}, signed at"
                    f" {one.checkpoint.time}, states another tree"
                )
            agreed = size
        return None

    def __str__(self) -> str:
        if not self._anchors:
            return "no anchors"
        last = self._anchors[-1].checkpoint
        return (
            f"{counted(len(self._anchors), 'anchor')} in {counted(self._targets, 'target')}, the last of"
            f" {last.size} {'event' if last.size == 1 else 'events'}, signed at"
            f" {last.time}"
        )


async def read_anchors(texts: list[str], origin: str, verifiers: Sequence[str]) -> AnchorSet:
    """The anchors of the log `origin` in the targets `texts`, signed with one of the public keys. Raises UsageError."""
    async with AsyncExitStack() as stack:
        targets = await open_targets(stack, texts)
        return AnchorSet(await asyncio.gather(*(_read_target(one, origin, verifiers) for one in targets)))


async def _read_target(target: AnchorTarget, origin: str, verifiers: Sequence[str]) -> _TargetAnchors:
    try:
        anchors = await target.read_all(origin)
        complete = [one for one in anchors if not is_incomplete(one.text)]
        if not complete:
            other = await _other_log(target, origin, verifiers)
            if other is not None:
                return _TargetAnchors(
                    fault=f"{target.name} has anchors of another log by this key, and none of {origin}: {other}"
                )
            return _TargetAnchors(silent=f"{target.name} has no anchor of {origin}")
    except TargetUnavailable as error:
        return _TargetAnchors(silent=f"{target.name} cannot be read: {error}")
    read = []
    for one in complete:
        try:
            read.append(ReadAnchor(one, _read_anchor(one, origin, verifiers)))
        except InvalidCheckpoint as error:
            return _TargetAnchors(fault=f"{one} proves nothing: {error}")
    return _TargetAnchors(tuple(read), incomplete=len(anchors) - len(complete))


def _read_anchor(anchor: Anchor, origin: str, verifiers: Sequence[str]) -> LogCheckpoint:
    """Raises InvalidCheckpoint unless it is signed with one of the keys, and is what its name says."""
    checkpoint = _read_with_any(anchor.text, verifiers)
    if anchor.name != anchor_name(checkpoint.origin, checkpoint.size) or checkpoint.origin != origin:
        raise InvalidCheckpoint(f"it states {checkpoint.size} events of {checkpoint.origin}: it was moved")
    return checkpoint


def _read_with_any(text: str, verifiers: Sequence[str]) -> LogCheckpoint:
    """The checkpoint, signed with any of the keys. Raises InvalidCheckpoint, with the reason for the first key."""
    reason = InvalidCheckpoint("there is no key")
    for number, verifier in enumerate(verifiers):
        try:
            return signed_checkpoint.read(text, verifier)
        except InvalidCheckpoint as error:
            reason = error if number == 0 else reason
    raise reason


async def _other_log(target: AnchorTarget, origin: str, verifiers: Sequence[str]) -> str | None:
    """Another log of this signer in the target: the whole log was replaced, or this is the wrong one."""
    for other in await target.origins():
        text = await target.newest(other) if other != origin else None
        try:
            if text is not None:
                return _read_with_any(text, verifiers).origin
        except InvalidCheckpoint:
            continue
    return None
