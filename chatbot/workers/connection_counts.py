"""Connection counts of all workers in shared memory, so that the least loaded worker accepts the next connection."""

import mmap
import os
import tempfile

NOT_ACCEPTING = 2**32 - 1  # the count of a worker that accepts none
_BYTES = 4


def create_counts_file(slots: int) -> int:
    """A descriptor of the shared memory, to be inherited; at first no worker accepts."""
    with tempfile.TemporaryFile() as file:
        file.write(b"\xff" * _BYTES * slots)
        file.flush()
        return os.dup(file.fileno())


class ConnectionCounts:
    """The counts of all slots. Those of other processes may be slightly stale."""

    def __init__(self, descriptor: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, 0)).cast("I")

    def set_count(self, slot: int, connections: int = NOT_ACCEPTING) -> None:
        """Set the count of the worker in `slot`; by default: it accepts no more."""
        self._numbers[slot - 1] = connections

    def lowest_count(self) -> int:
        """The count of the least loaded worker."""
        return min(self._numbers)


class FairShare:
    """Fair accepting for one worker."""

    def __init__(self, counts: ConnectionCounts, slot: int) -> None:
        self._counts = counts
        self._slot = slot

    def should_accept(self, connections: int, slack: int) -> bool:
        """Publish this worker's count. Returns whether one more connection would be fair to the others."""
        self._counts.set_count(self._slot, connections)
        return connections <= self._counts.lowest_count() + slack

    def leave(self) -> None:
        """This worker accepts no more connections."""
        self._counts.set_count(self._slot)
