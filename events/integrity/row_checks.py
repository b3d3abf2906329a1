"""The integrity checks of one row, which all users share: verify, the startup check, import, migrate, salvage, proofs.

A row is intact if its commitment follows from its content (`check_commitment`) and its digest from its columns and the
digest of the row before (`check_link`). The commitment is over salt and data joined, so it protects the boundary
between them only because a salt always has the same length (or that of an event with parts, see `commitments.py`). The
same is true of the digests and commitments that the next row is linked with. So both checks include the lengths.
"""

import hashlib
import struct

from events.integrity.commitments import find_fault
from events.integrity.hash_chain import (
    DIGEST_BYTES,
    SALT_BYTES,
    commit,
    length_prefixed,
    link,
    pack_length,
    pack_numbers,
)
from events.record import RawColumns, StoredRow, raw_text

# What the checks raise for columns of a wrong type, size, encoding or nesting depth.
MALFORMED = (AttributeError, TypeError, ValueError, RecursionError, struct.error)

_sha256 = hashlib.sha256


def check_row(previous: bytes, row: StoredRow) -> str | None:
    """Why the row is not what was recorded after the digest `previous`; None if it is intact."""
    return check_commitment(row) or check_link(previous, row)


def check_commitment(row: StoredRow) -> str | None:
    """Why the row's content does not match its commitment; None if it matches or is erased."""
    if (row.data is None) != (row.salt is None):
        return "content and salt must be erased together"
    try:
        if len(row.commitment) != DIGEST_BYTES:
            return "the commitment has another length than any log writes"
        if row.data is None or row.salt is None:
            return None
        if not row.salt or len(row.salt) % SALT_BYTES:
            return "the salt has another length than any log writes"
        if len(row.salt) > SALT_BYTES:
            return find_fault(raw_text(row.type), row.data.encode(), row.salt, row.commitment)
        if commit(row.salt, row.data.encode()) != row.commitment:
            return "content, salt or commitment was changed"
    except MALFORMED as error:
        return f"a column holds what no log writes: {error}"
    return None


def check_link(previous: bytes, row: StoredRow) -> str | None:
    """Why the row's digest does not follow from `previous`, the digest of the row before, and its own columns; None if
    it does.
    """
    numbers = (row.position, row.version, row.schema_version, row.recorded_at_us)
    try:
        if len(previous) != DIGEST_BYTES:
            return "the digest of the event before has another length than any log writes"
        if link(previous, numbers, (row.stream_id, row.type, row.metadata), row.commitment) != row.digest:
            return "the digest does not follow from the event before and the columns of this one"
    except MALFORMED as error:
        return f"a column holds what no log writes: {error}"
    return None


def is_intact(previous: bytes, row: RawColumns) -> bool:
    """The fast path of `check_row` for rows with content, 20% faster: for verifying millions of rows.

    False means that `check_row` must decide, for example for an erased row. Raises MALFORMED.
    """
    position, stream, version, kind, schema_version, recorded_at_us, metadata, data, salt, commitment, digest = row
    if not (data.isascii() and metadata.isascii() and stream.isascii() and kind.isascii()):
        for text in (data, metadata, stream, kind):
            text.decode()  # no log writes what is not UTF-8
    if len(salt) != SALT_BYTES or _sha256(salt + data).digest() != commitment:
        return False
    head = pack_numbers(position, version, schema_version, recorded_at_us, len(stream))
    parts = (previous, head, stream, length_prefixed(kind), pack_length(len(metadata)), metadata, commitment)
    is_linked: bool = _sha256(b"".join(parts)).digest() == digest
    return is_linked
