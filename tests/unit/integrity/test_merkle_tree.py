"""The tree of RFC 9162: roots and audit paths as the RFC defines them, by recursion."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.integrity.merkle_tree import EMPTY, MerkleTree, leaf_hash, node_hash, root_from_path

digests = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70)


def split(size: int) -> int:
    """The largest power of two below `size`."""
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def root(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = split(len(leaves))
    return node_hash(root(leaves[:k]), root(leaves[k:]))


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), root(leaves[k:])]
    return [*path(index - k, leaves[k:]), root(leaves[:k])]


def built(leaves: list[bytes], *wanted: int) -> tuple[bytes, dict[int, list[bytes]]]:
    tree = MerkleTree(wanted)
    for leaf in leaves:
        tree.add(leaf)
    return tree.close()


def test_leaves_and_nodes_are_told_apart_by_their_first_byte() -> None:
    assert leaf_hash(b"x" * 32) == hashlib.sha256(b"\x00" + b"x" * 32).digest()
    assert node_hash(b"a" * 32, b"b" * 32) == hashlib.sha256(b"\x01" + b"a" * 32 + b"b" * 32).digest()


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert built([])[0] == EMPTY == hashlib.sha256(b"").digest()


@given(digests)
def test_roots_and_paths_are_those_of_the_rfc(leaves: list[bytes]) -> None:
    found, paths = built(leaves, *range(len(leaves)))
    assert found == root(leaves)
    assert paths == {index: path(index, leaves) for index in range(len(leaves))}


@given(digests, st.data())
def test_a_path_leads_to_the_root_and_from_no_other_leaf_place_or_path(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    found, paths = built(leaves, index)
    size, way = len(leaves), paths[index]
    assert root_from_path(leaves[index], index, size, way) == found
    assert root_from_path(bytes(32), index, size, way) != found or leaves[index] == bytes(32)
    for other in range(size):
        if other != index and leaves[other] != leaves[index]:
            assert root_from_path(leaves[index], other, size, way) != found
    assert root_from_path(leaves[index], index, size, [*way, bytes(32)]) != found
    if way:
        assert root_from_path(leaves[index], index, size, way[:-1]) != found


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_a_place_outside_of_the_tree_has_no_root(index: int, size: int) -> None:
    assert root_from_path(bytes(32), index, size, []) is None
