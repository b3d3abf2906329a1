"""The signed checkpoints that a log is held against, as many as a file holds."""

from collections.abc import Sequence

from events.checkpoint import Checkpoint
from events.log import EventLog
from events.merkle import TreeHeads
from events.record import Head


class StatedHeads:
    """One checkpoint at least. The greatest is the anchor of the walk; the others are compared after it."""

    def __init__(self, stated: Sequence[Checkpoint]) -> None:
        self.stated = sorted(stated, key=lambda one: one.size)
        self.tree = TreeHeads(one.size for one in stated)

    @property
    def anchor(self) -> Head:
        return Head(self.stated[-1].size, self.stated[-1].digest)

    @property
    def first_position(self) -> int:
        return self.stated[0].size

    async def fault(self, log: EventLog, *, with_roots: bool) -> str | None:
        """Why the walked log is not the one that was signed, as a sentence; None when it is. `with_roots`: the tree has
        grown with the walk.
        """
        for one in self.stated:
            rows = await log.rows(after=one.size - 1, limit=1) if one.size else []
            if one.size and (not rows or rows[0].digest != one.digest):
                return (
                    f"the chain is whole, but not the one that was signed at {one.time}: event {one.size} is another,"
                    " so it was computed anew"
                )
            if with_roots and self.tree.roots.get(one.size) != one.root:
                return f"the chain agrees with the checkpoint of {one.size} events, but the tree's root does not"
        return None

    def __str__(self) -> str:
        last = self.stated[-1]
        if len(self.stated) == 1:
            return f"the checkpoint of {last.size} events, signed at {last.time}"
        sizes = ", ".join(str(one.size) for one in self.stated[:-1])
        return f"{len(self.stated)} checkpoints, of {sizes} and {last.size} events, the last signed at {last.time}"
