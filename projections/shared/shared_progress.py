"""The progress of the projections in shared memory: readers in other processes learn it without a request."""

import mmap
import os
import tempfile

_FIELDS = 3
_FIELD_BYTES = 8  # aligned, so that each is read and written as a whole
_POSITION, _GENERATION, _REBUILDING = range(_FIELDS)


def create_progress_file() -> int:
    """A descriptor of the shared memory, to be inherited. At first nothing is folded and no file is open."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(_FIELD_BYTES * _FIELDS))
        file.flush()
        progress = os.dup(file.fileno())
    SharedProgress(progress).publish(0, rebuilding=True)
    return progress


class SharedProgress:
    """One process writes, others read.

    `generation` changes when the projections' file is replaced: it is odd while no file can be opened, and even and
    higher than before once the new one can.
    """

    def __init__(self, descriptor: int) -> None:
        self._fields = memoryview(mmap.mmap(descriptor, 0)).cast("Q")

    @property
    def position(self) -> int:
        """As Projections.position."""
        return self._fields[_POSITION]

    @property
    def rebuilding(self) -> bool:
        """As Projections.rebuilding."""
        return bool(self._fields[_REBUILDING])

    @property
    def generation(self) -> int:
        return self._fields[_GENERATION]

    def publish(self, position: int, *, rebuilding: bool) -> None:
        """Set the position. No reader sees the end of a rebuild before its position, nor a new one after it."""
        if rebuilding:
            self._fields[_REBUILDING] = True
        self._fields[_POSITION] = position
        if not rebuilding:
            self._fields[_REBUILDING] = False

    def set_available(self, is_available: bool) -> None:
        """Whether the file can be opened now. Each time it can, readers open it again."""
        generation = self._fields[_GENERATION]
        if is_available:
            self._fields[_GENERATION] = generation + 2 - generation % 2
        else:
            self._fields[_GENERATION] = generation | 1
