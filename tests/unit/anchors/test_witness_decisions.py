"""A witness, asked anything in any order: it only ever signs trees that contain all that it has signed before."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from chatbot.anchors.witness import NONE_SEEN, Submission, judge
from events.integrity.consistency_proof import ConsistencyTree
from events.integrity.signed_checkpoint import LogCheckpoint, TreeHead, make_key, sign

ORIGIN = "chatbot-log/" + "a" * 32
SIGNER, VERIFIER = make_key("log")
Leaves = tuple[bytes, ...]


def leaves_of(size: int, fork_at: int) -> Leaves:
    """Of the log itself, or from the leaf `fork_at` on those of a fork of it."""
    names = (f"{number}" if number < fork_at else f"fork {fork_at} {number}" for number in range(size))
    return tuple(hashlib.sha256(name.encode()).digest() for name in names)


def submission(old_size: int, leaves: Leaves) -> Submission:
    tree = ConsistencyTree((old_size,))
    for leaf in leaves:
        tree.add(leaf)
    note = sign(LogCheckpoint(ORIGIN, len(leaves), tree.root(), bytes(32), "2026-01-31T09:30:00Z"), SIGNER)
    return Submission(old_size, tree.proof(old_size) or [], note, TreeHead(ORIGIN, len(leaves), tree.root()))


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20), st.none() | st.integers(0, 20)), max_size=12))
def test_what_is_signed_contains_what_was_signed_before(asked: list[tuple[int, int, int | None]]) -> None:
    seen, seen_leaves = NONE_SEEN, Leaves()
    for size, fork_at, stated in asked:
        leaves = leaves_of(size, fork_at)
        old_size = seen.size if stated is None else stated
        one = submission(old_size, leaves)
        refusal = judge(seen, one, [VERIFIER])
        contains = leaves[: len(seen_leaves)] == seen_leaves
        assert (refusal is None) is (old_size == seen.size and contains), refusal
        if refusal is None:
            seen, seen_leaves = one.head, leaves
