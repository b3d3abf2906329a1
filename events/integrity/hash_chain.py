"""The hash chain: proves that no row was changed, removed, inserted or moved, also after content was erased.

    commitment = SHA-256(salt || data)
    digest     = SHA-256(previous digest || position || version || schema_version || recorded_at
                         || stream_id || type || metadata || commitment)

Integers are unsigned 64-bit big-endian; texts are UTF-8, prefixed with their length as such an integer, so that no two
rows have the same encoding. The salt is 16 random bytes: once data and salt are erased, the commitment still links the
chain and reveals nothing, not even whether a guess of the text is right. The first digest follows 32 zero bytes.
"""

import hashlib
import struct
from functools import lru_cache

DIGEST_BYTES = 32
GENESIS = bytes(DIGEST_BYTES)
SALT_BYTES = 16
TYPES_CACHED = 64  # encoded event types

pack_numbers = struct.Struct(">QQQQQ").pack  # the four numbers, and the length of the first text
pack_length = struct.Struct(">Q").pack
_sha256 = hashlib.sha256


def commit(salt: bytes, data: bytes) -> bytes:
    """The commitment to an event's content, which is hashed into the chain. 32 bytes."""
    return _sha256(salt + data).digest()


def link(previous: bytes, numbers: tuple[int, int, int, int], texts: tuple[str, str, str], commitment: bytes) -> bytes:
    """The digest of a row. 32 bytes.

    `numbers` are position, version, schema_version and recorded_at; `texts` are stream_id, type and metadata.
    """
    stream_id, kind, metadata = texts
    stream, encoded_metadata = stream_id.encode(), metadata.encode()
    head = pack_numbers(*numbers, len(stream))
    # Joined first: one call of `update` per part costs more.
    parts = (
        previous,
        head,
        stream,
        length_prefixed(kind),
        pack_length(len(encoded_metadata)),
        encoded_metadata,
        commitment,
    )
    return _sha256(b"".join(parts)).digest()


@lru_cache(maxsize=TYPES_CACHED)
def length_prefixed(text: str | bytes) -> bytes:
    """A text in UTF-8, prefixed with its length."""
    encoded = text.encode() if isinstance(text, str) else text
    return pack_length(len(encoded)) + encoded
