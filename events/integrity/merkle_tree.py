"""The Merkle tree over the log (RFC 9162, 2.1): one event can be checked against a signed root without the rest.

Its leaves are the digests of the chain, in order. The tree is not stored: it is computed from the column `digest` in
one pass when it is needed; memory grows with the logarithm of the log.

    leaf = SHA-256(0x00 || digest)        node = SHA-256(0x01 || left || right)
"""

import hashlib
from collections.abc import Iterable, Sequence

EMPTY = hashlib.sha256().digest()


def leaf_hash(digest: bytes) -> bytes:
    return hashlib.sha256(b"\0" + digest).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


class MerkleTree:
    """Grows by one digest at a time, and collects the audit paths of the leaves `wanted` (indices from 0).

    Complete subtrees are on a stack, the largest first, like the bits of a binary counter.
    """

    def __init__(self, wanted: Iterable[int] = ()) -> None:
        self.size = 0
        self._wanted = frozenset(wanted)
        self._paths: dict[int, list[bytes]] = {}
        self._stack: list[tuple[int, bytes, list[int]]] = []  # number of leaves, hash, wanted leaves in it

    def add(self, digest: bytes) -> None:
        """Add the next leaf."""
        leaves, root, inside = 1, leaf_hash(digest), []
        if self.size in self._wanted:
            self._paths[self.size] = []
            inside = [self.size]
        self.size += 1
        while self._stack and self._stack[-1][0] == leaves:
            _, left, in_left = self._stack.pop()
            root, inside = self._join(left, in_left, root, inside)
            leaves *= 2
        self._stack.append((leaves, root, inside))

    def root(self) -> bytes:
        """The root of all leaves so far."""
        if not self._stack:
            return EMPTY
        root = self._stack[-1][1]
        for _, left, _ in reversed(self._stack[:-1]):
            root = node_hash(left, root)
        return root

    def close(self) -> tuple[bytes, dict[int, list[bytes]]]:
        """The root of all leaves, and the audit path of each wanted one, from the leaf up. Consumes the tree."""
        if not self._stack:
            return EMPTY, {}
        _, root, inside = self._stack.pop()
        while self._stack:
            _, left, in_left = self._stack.pop()
            root, inside = self._join(left, in_left, root, inside)
        return root, self._paths

    def _join(self, left: bytes, in_left: list[int], right: bytes, in_right: list[int]) -> tuple[bytes, list[int]]:
        for index in in_left:
            self._paths[index].append(right)
        for index in in_right:
            self._paths[index].append(left)
        return node_hash(left, right), in_left + in_right


class MerkleRoots(MerkleTree):
    """A tree that records its root at each of `sizes`, in `roots`."""

    def __init__(self, sizes: Iterable[int]) -> None:
        super().__init__()
        self._sizes = frozenset(sizes)
        self.roots = {0: EMPTY}

    def add(self, digest: bytes) -> None:
        """As MerkleTree.add."""
        super().add(digest)
        if self.size in self._sizes:
            self.roots[self.size] = self.root()


def root_from_path(digest: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root of a tree of `size` leaves with `digest` at `index`, computed from its audit `path` (RFC 9162, 2.1.3.2).

    None for a path of the wrong length.
    """
    if not 0 <= index < size:
        return None
    at, last, root = index, size - 1, leaf_hash(digest)
    for sibling in path:
        if last == 0:
            return None
        if at % 2 or at == last:
            root = node_hash(sibling, root)
            while at % 2 == 0 and at:
                at, last = at // 2, last // 2
        else:
            root = node_hash(root, sibling)
        at, last = at // 2, last // 2
    return root if last == 0 else None
