"""The head of the log in shared memory: the writer process publishes it, other processes read it without asking.

It is set before the appends that led to it are acknowledged, so a process that has received the acknowledgement reads
that head or a later one. There are two slots, which are written in turn, each with a sequence number and a checksum: a
slot that is half written (also by a process that was killed then) is not valid, and the other one holds the last head
that may have been acknowledged.
"""

import mmap
import os
import struct
import tempfile
from zlib import crc32

from events.errors import LogUnavailable
from events.integrity.hash_chain import GENESIS
from events.record import Head

_SLOT = struct.Struct(">QQ32sI")  # sequence number, position, digest, checksum of these; big-endian: compared as bytes
_SIGNED = struct.Struct(">QQ32s")
_SLOT_BYTES = 64  # a cache line
_BYTES = 2 * _SLOT_BYTES
READS_MAX = 1_000  # both slots are invalid only if the writer has written both while this process read them


def create_positions_file() -> int:
    """A descriptor of the shared memory, to be inherited. The log is empty at first."""
    with tempfile.TemporaryFile() as file:
        file.truncate(_BYTES)
        descriptor = os.dup(file.fileno())
    SharedPositions(descriptor).set_head(Head(0, GENESIS))
    return descriptor


class SharedPositions:
    """One process sets the head, any number read it. `descriptor` may be closed afterwards."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _BYTES)

    def head(self) -> Head:
        """The last committed position and digest. Raises LogUnavailable where the memory was damaged."""
        sequence, position, digest = self._read()
        if not sequence:
            raise LogUnavailable("the shared positions of the log are damaged: restart the service")
        return Head(position, digest)

    def set_head(self, head: Head) -> None:
        sequence = self._read()[0] + 1
        signed = _SIGNED.pack(sequence, head.position, head.digest)
        slot = sequence % 2 * _SLOT_BYTES
        self._memory[slot : slot + _SLOT.size] = signed + crc32(signed).to_bytes(4)

    def _read(self) -> tuple[int, int, bytes]:
        """The newest valid slot: its sequence number (0: there is none), position and digest."""
        for _ in range(READS_MAX):
            value = self._memory[:_BYTES]
            for slot in (0, _SLOT_BYTES) if value[:8] > value[_SLOT_BYTES : _SLOT_BYTES + 8] else (_SLOT_BYTES, 0):
                sequence, position, digest, checksum = _SLOT.unpack_from(value, slot)
                if checksum == crc32(value[slot : slot + _SIGNED.size]):
                    return sequence, position, digest
        return 0, 0, GENESIS
