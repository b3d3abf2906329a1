"""Rows whose content an import changes: they get a new salt and a new commitment."""

from collections.abc import Callable

from msgspec.structs import replace

from events.integrity.commitments import commit_parts, with_parts_first
from events.integrity.hash_chain import SALT_BYTES, commit
from events.record import StoredRow


def with_data(row: StoredRow, data: bytes, random_bytes: Callable[[int], bytes]) -> StoredRow:
    """`row` with other `data`, with or without parts as before, and a new salt and commitment; the digest stays."""
    if row.salt is not None and len(row.salt) > SALT_BYTES:
        data = with_parts_first(data)
        salt, commitment = commit_parts(row.type.encode(), data, random_bytes)
    else:
        salt = random_bytes(SALT_BYTES)
        commitment = commit(salt, data)
    return replace(row, data=data.decode(), salt=salt, commitment=commitment)
