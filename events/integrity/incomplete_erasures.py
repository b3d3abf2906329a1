"""Incomplete erasures: content that is still stored although a later event of its session says that it was erased.

The service erases in the transaction that records the event. Version 0.4 could copy such an event without its erasure:
a migration that stopped after it, an export taken while the session was deleted, an import of a newer export.
"""

from msgspec import Struct

from events.catalogue import ERASURE_TYPES
from events.integrity.erased_versions import redacted_message, redacted_versions
from events.log import EventLog
from events.record import StoredRow

PAGE_ROWS = 250  # of a session, read at once
PAGE_BYTES = 2**20  # or as many rows as have about this much content


class IncompleteErasure(Struct, frozen=True):
    """`position` is that of the session's first event with such content, `version` that of its last erasing event, or
    of a redaction of the message `message_id`.
    """

    stream_id: str
    position: int
    version: int
    message_id: str | None = None


async def find_incomplete_erasure(log: EventLog, stream_id: str) -> IncompleteErasure | None:
    """The incomplete erasure of this session, all of which is read; None where there is none. Raises LogUnavailable."""
    first, found, after = None, None, 0
    redacted: dict[int, StoredRow] = {}  # by version, the redaction
    while page := await log.stream_rows(stream_id, after=after, limit=PAGE_ROWS, bytes_max=PAGE_BYTES):
        for row in page:
            if row.type in ERASURE_TYPES and first is not None:
                found = IncompleteErasure(stream_id, first, row.version)
            if row.data is not None and first is None:
                first = row.position
            redacted |= dict.fromkeys(redacted_versions(row), row)
        after = page[-1].version
    return found or await _find_incomplete_redaction(log, stream_id, redacted)


async def _find_incomplete_redaction(
    log: EventLog, stream_id: str, redacted: dict[int, StoredRow]
) -> IncompleteErasure | None:
    for version, redaction in sorted(redacted.items(), key=lambda one: one[0]):
        rows = await log.stream_rows(stream_id, after=version - 1, limit=1)
        if rows and rows[0].version == version and rows[0].data is not None:
            return IncompleteErasure(stream_id, rows[0].position, redaction.version, redacted_message(redaction))
    return None


async def finish_erasure(log: EventLog, stream_id: str) -> bool:
    """Complete the erasure of this session. Returns whether any content was left. Raises as EventLog.erase."""
    last = None
    while (left := await find_incomplete_erasure(log, stream_id)) is not None and left != last:
        await log.finish_erasure(stream_id, left.version)
        last = left
    return last is not None
