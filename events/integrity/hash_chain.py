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
from functools import lru_cache

DIGEST_BYTES = 32
GENESIS = bytes(DIGEST_BYTES)
SALT_BYTES = 16
KINDS_KEPT = 64  # types of events, encoded

pack_numbers = struct.Struct(">QQQQQ").pack  # the four numbers, and the length of the first text
pack_length = struct.Struct(">Q").pack
_sha256 = hashlib.sha256


def commit(salt: bytes, data: bytes) -> bytes:
    """What the chain keeps of an event's content. 32 bytes."""
    return _sha256(salt + data).digest()


def link(previous: bytes, numbers: tuple[int, int, int, int], texts: tuple[str, str, str], commitment: bytes) -> bytes:
    """The digest of a row. 32 bytes.

    `numbers` are position, version, schema_version and recorded_at; `texts` are stream_id, type and metadata.
    """
    stream_id, kind, metadata = texts
    stream, asked = stream_id.encode(), metadata.encode()
    head = pack_numbers(*numbers, len(stream))
    # In one piece: a call of `update` for each part costs more than the joining.
    parts = (previous, head, stream, framed(kind), pack_length(len(asked)), asked, commitment)
    return _sha256(b"".join(parts)).digest()


@lru_cache(maxsize=KINDS_KEPT)
def framed(text: str | bytes) -> bytes:
    """A text, or what it is in UTF-8, behind its length."""
    encoded = text.encode() if isinstance(text, str) else text
    return pack_length(len(encoded)) + encoded
