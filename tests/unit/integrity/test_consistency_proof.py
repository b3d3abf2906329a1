"""Consistency proofs: compared with the definitions of RFC 9162 (2.1.1, 2.1.4.1), which are recursive."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from events.integrity.consistency_proof import ConsistencyTree, is_consistent
from events.integrity.merkle_tree import EMPTY


def digests(count: int) -> list[bytes]:
    return [hashlib.sha256(f"{number}".encode()).digest() for number in range(count)]


def split_at(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def tree_hash(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = split_at(len(leaves))
    return hashlib.sha256(b"\1" + tree_hash(leaves[:k]) + tree_hash(leaves[k:])).digest()


def subproof(size: int, leaves: list[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 9162, 2.1.4.1."""
    if size == len(leaves):
        return [] if whole else [tree_hash(leaves)]
    k = split_at(len(leaves))
    if size <= k:
        return [*subproof(size, leaves[:k], whole=whole), tree_hash(leaves[k:])]
    return [*subproof(size - k, leaves[k:], whole=False), tree_hash(leaves[:k])]


def test_every_proof_between_small_trees_is_that_of_the_definition() -> None:
    leaves = digests(33)
    roots = [tree_hash(leaves[:size]) for size in range(len(leaves) + 1)]
    for later in range(1, len(leaves) + 1):
        known, marked = ConsistencyTree(range(later + 1)), ConsistencyTree()
        for digest in leaves[:later]:
            known.add(digest)
            marked.add(digest)
            marked.mark()
        assert known.root() == roots[later]
        for earlier in range(1, later + 1):
            expected = subproof(earlier, leaves[:later], whole=True)
            assert known.proof(earlier) == marked.proof(earlier) == expected
            assert known.roots[earlier] == roots[earlier]
            assert is_consistent((earlier, roots[earlier]), (later, roots[later]), expected)


@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_no_changed_proof_root_or_size_is_consistent(first: int, second: int, data: st.DataObject) -> None:
    earlier, later = sorted((first, second))
    tree = ConsistencyTree((earlier,))
    for digest in digests(later):
        tree.add(digest)
    proof = tree.proof(earlier)
    assert proof is not None
    old, new = (earlier, tree.roots[earlier]), (later, tree.root())
    assert is_consistent(old, new, proof)
    changed = bytes(32)
    assert not is_consistent((earlier, changed), new, proof)
    assert not is_consistent(old, (later, changed), proof)
    assert not is_consistent(old, new, [*proof, changed])
    assert not is_consistent((later + 1, tree.root()), new, proof)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not is_consistent(old, new, [*proof[:at], changed, *proof[at + 1 :]])
        assert not is_consistent(old, new, proof[:-1])


def test_the_empty_tree_is_contained_in_every_tree_and_a_size_that_was_not_marked_has_no_proof() -> None:
    tree = ConsistencyTree()
    tree.mark()
    for digest in digests(5):
        tree.add(digest)
    assert is_consistent((0, EMPTY), (5, tree.root()), [])
    assert not is_consistent((0, EMPTY), (5, tree.root()), [tree.root()])
    assert tree.proof(0) == tree.proof(5) == []
    assert tree.proof(3) is None


def test_a_forgotten_size_leaves_the_other_proofs_as_they_are() -> None:
    tree, leaves = ConsistencyTree((3, 4)), digests(9)
    for digest in leaves:
        tree.add(digest)
    tree.forget(3)
    tree.forget(7)
    assert tree.proof(3) is None
    assert tree.proof(4) == subproof(4, leaves, whole=True)
