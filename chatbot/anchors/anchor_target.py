"""Anchors and their targets: names, the port of a target, and how it can fail.

An anchor is a signed checkpoint (events/integrity/signed_checkpoint.py). In a folder or a bucket its name is
`<origin>/<size>`, the size with 20 digits, so that names sort by size.
"""

import re
from typing import Protocol

from msgspec import Struct

from events.integrity.consistency_proof import ConsistencyTree
from events.integrity.signed_checkpoint import InvalidCheckpoint, LogCheckpoint, TreeHead, parse_tree_head, split_note

SIZE_DIGITS = 20
NOTE_MAX_BYTES = 16_384  # of a checkpoint with all its signatures: ours have 400 bytes, and 150 more for each witness
ANCHORS_MAX = 100_000  # read from one target, the newest: eleven years of one in each hour
ORIGINS_MAX = 100  # other logs in one target that are named
_NAME = re.compile(rf"[0-9]{{{SIZE_DIGITS}}}")
_SIGNATURE = re.compile(r"\u2014 \S+ \S+")


class TargetUnavailable(Exception):
    """The target cannot be read or written now: the sentence says why. It may hold the anchor all the same."""


class TargetContradicts(Exception):
    """The target holds another tree of this log than the log has now: one of them was rewritten."""


class TargetAhead(Exception):
    """The target has an anchor of more events, `size`: another node wrote it, or the log was rolled back."""

    def __init__(self, size: int) -> None:
        super().__init__(f"it has an anchor of {size} events")
        self.size = size


class ProofMissing(Exception):
    """The target wants to see the log's growth since `size`, of which the tree has no proof."""

    def __init__(self, size: int) -> None:
        super().__init__(f"it wants a proof since {size} events")
        self.size = size


class NewAnchor(Struct, frozen=True):
    """A checkpoint to be written: signed, as `note`, also by witnesses; `tree` has the proofs of its growth."""

    checkpoint: LogCheckpoint
    note: str
    tree: ConsistencyTree


class Anchor(Struct, frozen=True):
    """An anchor as a target gave it; nothing in it is checked."""

    target: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name} in {self.target}"


class AnchorTarget(Protocol):
    """`name` is shown to people; it has no credentials. `proof_size` is the size since which it wants a proof.
    `signs`: it is a witness; `cosignature` are the lines with which it has signed the anchor written last, if its key
    is known.
    """

    @property
    def signs(self) -> bool: ...

    @property
    def name(self) -> str: ...

    @property
    def proof_size(self) -> int: ...

    @property
    def cosignature(self) -> str: ...

    async def newest(self, origin: str) -> str | None:
        """The text of the newest anchor of the log, or None. Raises TargetUnavailable."""
        ...

    async def write(self, anchor: NewAnchor) -> bool:
        """Write an anchor; False if it was there. Nothing is ever overwritten.

        Raises TargetUnavailable, TargetContradicts, TargetAhead, ProofMissing.
        """
        ...

    async def read_all(self, origin: str) -> list[Anchor]:
        """All anchors of the log by size, at most the newest ANCHORS_MAX. Raises TargetUnavailable."""
        ...

    async def origins(self) -> list[str]:
        """The logs that have anchors here, at most ORIGINS_MAX; none if it does not say. Raises TargetUnavailable."""
        ...

    async def close(self) -> None: ...


def anchor_name(origin: str, size: int) -> str:
    return f"{origin}/{size:0{SIZE_DIGITS}}"


def is_anchor_name(name: str) -> bool:
    """Whether the last part of a name is that of an anchor: anything else may lie there as well."""
    return _NAME.fullmatch(name.rpartition("/")[2]) is not None


def is_incomplete(text: str) -> bool:
    """Whether a text is only the beginning of an anchor, which an interrupted write leaves. It proves nothing."""
    try:
        _, signatures = split_note(text)
    except InvalidCheckpoint:
        return True
    return not signatures.endswith("\n") or not any(_SIGNATURE.fullmatch(line) for line in signatures.split("\n"))


def tree_head_of(text: str) -> TreeHead | None:
    """The tree head that a text states; None if it states none."""
    try:
        return parse_tree_head(text)
    except InvalidCheckpoint:
        return None
