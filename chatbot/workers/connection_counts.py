"""How many connections each worker has open, in memory that they share: so that the least busy takes the next one."""

import mmap
import os
import tempfile

NOT_ACCEPTING = 2**32 - 1  # in the place of a worker that takes none
_BYTES = 4


def create_counts_file(slots: int) -> int:
    """A descriptor of such a memory, to be inherited; in the beginning nobody is there."""
    with tempfile.TemporaryFile() as file:
        file.write(b"\xff" * _BYTES * slots)
        file.flush()
        return os.dup(file.fileno())


class ConnectionCounts:
    """The numbers of all slots. Those of the others may be a moment old."""

    def __init__(self, descriptor: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, 0)).cast("I")

    def note(self, slot: int, connections: int = NOT_ACCEPTING) -> None:
        """The worker in `slot` has so many; absent: it takes none any more."""
        self._numbers[slot - 1] = connections

    def lowest_count(self) -> int:
        """What the least busy worker has."""
        return min(self._numbers)


class FairShare:
    """One worker's view of the tally."""

    def __init__(self, tally: ConnectionCounts, slot: int) -> None:
        self._tally = tally
        self._slot = slot

    def should_accept(self, connections: int, slack: int) -> bool:
        """Note that this worker has so many, and tell whether one more would be its fair share."""
        self._tally.note(self._slot, connections)
        return connections <= self._tally.lowest_count() + slack

    def leave(self) -> None:
        """This worker takes none any more."""
        self._tally.note(self._slot)
