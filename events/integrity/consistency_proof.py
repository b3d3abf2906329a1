"""Consistency proofs (RFC 9162, 2.1.4): a tree of the log contains an earlier one, so nothing in it was changed.

A witness keeps only the size and root of the newest tree it has seen, and checks such a proof before it signs a later
one.
"""

from collections.abc import Iterable, Sequence

from events.integrity.merkle_tree import MerkleRoots, node_hash

PROOF_MAX_HASHES = 63  # of a proof between trees of less than 2**63 leaves


class ConsistencyTree(MerkleRoots):
    """A tree that also proves, from each of `sizes` and from sizes marked later, that it contains the tree it was then.

    A consistency proof is the audit path of the last complete subtree of the earlier tree, preceded by that subtree's
    hash unless it is the whole earlier tree. Memory for each size grows with the logarithm of the log.
    """

    def __init__(self, sizes: Iterable[int] = ()) -> None:
        super().__init__(sizes)
        self._marked: set[int] = set()

    def add(self, digest: bytes) -> None:
        """As MerkleTree.add."""
        super().add(digest)
        if self.size in self._sizes:
            self.mark()

    def mark(self) -> None:
        """Collect the proof from the present size on, and keep its root."""
        if self.size in self._marked or not self._stack:
            return
        leaves, root, inside = self._stack[-1]
        key = -self.size  # apart from the indices of leaves
        self._marked.add(self.size)
        self.roots[self.size] = self.root()
        self._paths[key] = [] if leaves == self.size else [root]
        inside.append(key)

    def forget(self, size: int) -> None:
        """Collect the proof from `size` no longer."""
        if size in self._marked:
            self._marked.remove(size)
            del self._paths[-size], self.roots[size]
            for _, _, inside in self._stack:
                if -size in inside:
                    inside.remove(-size)

    def proof(self, size: int) -> list[bytes] | None:
        """The proof that the tree of `size` leaves is contained in this one; None for a size that was not marked."""
        if size in (0, self.size):
            return []
        if size not in self._marked:
            return None
        path = list(self._paths[-size])
        at = next(index for index, (_, _, inside) in enumerate(self._stack) if -size in inside)
        later = [root for _, root, _ in self._stack[at + 1 :]]
        if later:
            right = later.pop()
            while later:
                right = node_hash(later.pop(), right)
            path.append(right)
        return path + [root for _, root, _ in reversed(self._stack[:at])]


def is_consistent(old: tuple[int, bytes], new: tuple[int, bytes], proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree `new` contains the tree `old`, each a size and a root (RFC 9162, 2.1.4.2)."""
    (old_size, old_root), (new_size, new_root) = old, new
    if old_size == 0:
        return not proof
    if old_size == new_size:
        return not proof and old_root == new_root
    if not 0 < old_size < new_size:
        return False
    hashes = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not hashes:
        return False
    at, last = old_size - 1, new_size - 1
    while at % 2:
        at, last = at // 2, last // 2
    old_found = new_found = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if at % 2 or at == last:
            old_found, new_found = node_hash(sibling, old_found), node_hash(sibling, new_found)
            while at % 2 == 0 and at:
                at, last = at // 2, last // 2
        else:
            new_found = node_hash(new_found, sibling)
        at, last = at // 2, last // 2
    return last == 0 and old_found == old_root and new_found == new_root
