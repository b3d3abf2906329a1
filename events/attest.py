"""What a row tells of itself and of the row before it, however damaged: the two checks that all proof is made of."""

import struct

from events.chain import commit, link
from events.record import StoredRow

_UNWRITABLE = (AttributeError, TypeError, ValueError, struct.error)  # of columns that hold what no log writes


def content_fault(row: StoredRow) -> str | None:
    """Why the row's content is not what it commits to; None when it is, or is erased."""
    if (row.data is None) != (row.salt is None):
        return "content and salt must be erased together"
    try:
        if row.data is not None and row.salt is not None and commit(row.salt, row.data.encode()) != row.commitment:
            return "content, salt or commitment was changed"
    except _UNWRITABLE as error:
        return f"a column holds what no log writes: {error}"
    return None


def follows(previous: bytes, row: StoredRow) -> bool:
    """Whether the row's digest follows from `previous`, the digest of the row before, and its own columns."""
    numbers = (row.position, row.version, row.schema_version, row.recorded_at_us)
    try:
        return link(previous, numbers, (row.stream_id, row.type, row.metadata), row.commitment) == row.digest
    except _UNWRITABLE:
        return False
