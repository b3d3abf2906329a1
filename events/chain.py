"""The hash chain: proves that no row was changed, removed, inserted or moved, and survives erasure.

    commitment = SHA-256(salt || data)
    digest     = SHA-256(previous digest || position || version || schema_version || recorded_at
                         || stream_id || type || metadata || commitment)

Integers are unsigned 64-bit big-endian; texts are UTF-8 behind their length as such an integer, so that no two
rows share an encoding. The salt is 16 random bytes: with data and salt erased, the commitment still chains and
tells nothing, not even to someone who guesses the text. The first digest follows 32 zero bytes.
"""

import hashlib
import struct

GENESIS = bytes(32)
SALT_BYTES = 16

_integers = struct.Struct(">QQQQ")
_length = struct.Struct(">Q")


def commit(salt: bytes, data: bytes) -> bytes:
    """What the chain keeps of an event's content. 32 bytes."""
    return hashlib.sha256(salt + data).digest()


def link(previous: bytes, numbers: tuple[int, int, int, int], texts: tuple[str, str, str], commitment: bytes) -> bytes:
    """The digest of a row. 32 bytes.

    `numbers` are position, version, schema_version and recorded_at; `texts` are stream_id, type and metadata.
    """
    parts = [previous, _integers.pack(*numbers)]
    for text in texts:
        encoded = text.encode()
        parts.append(_length.pack(len(encoded)))
        parts.append(encoded)
    parts.append(commitment)
    return hashlib.sha256(b"".join(parts)).digest()
