"""The integrity check at startup: of bounded size, so it takes as long for ten million events as for ten thousand.

`ChainVerifier` checks the whole chain. This checks the first row, pairs of rows spread evenly over the log, found by
position and by stream and version (so that both B-trees of the file are read), and the chain of the newest rows, where
torn writes and lost write-ahead logs show, and events of a newer program.
"""

from pathlib import Path

from events.catalogue import ERASURE_TYPES, MESSAGE_REDACTED
from events.codec import is_readable
from events.errors import LogDamaged, LogUnavailable, LogUnusable, UnknownEvent
from events.integrity.erased_versions import redacted_versions
from events.integrity.hash_chain import GENESIS
from events.integrity.incomplete_erasures import IncompleteErasure
from events.integrity.row_checks import check_row
from events.log import EventLog
from events.record import StoredRow

TAIL_ROWS = 1000  # the newest rows: tens of milliseconds
PROBES = 64  # pairs of rows before the tail: each reads a few pages of a cold file
DELETIONS = 64  # the newest deletions in the tail: two rows of each are read
PAGE = 200


async def check_integrity(log: EventLog, place: Path | str) -> list[IncompleteErasure]:
    """Check the log. Returns the incomplete erasures among the newest deletions, which do not prevent serving it.

    `place` is the log's file, or its database's URL without credentials. Raises LogDamaged for a log that is not
    intact, LogUnusable for one of a newer program;
    """
    try:
        reason = await _find_fault(log)
    except LogUnavailable as error:
        if "damaged" not in str(error):
            raise LogUnusable(str(error), remedy=error.remedy) from error
        raise LogDamaged(place, "SQLite finds its pages damaged" if isinstance(place, Path) else str(error)) from error
    except UnknownEvent as error:
        raise LogUnusable(f"database {place} was written by a newer version of this program ({error})") from error
    if reason is not None:
        raise LogDamaged(place, reason)
    return await _find_incomplete_erasures(log)


async def _find_incomplete_erasures(log: EventLog) -> list[IncompleteErasure]:
    """Reads the first event of each deleted session, and the last one before its deletion; of each redaction the first
    and the last of the events that it names.
    """
    last = log.head().position
    event_headers = await log.event_headers(after=max(last - TAIL_ROWS, 0), limit=TAIL_ROWS)
    deletions = [one for one in event_headers if one.type in ERASURE_TYPES and one.version > 1][-DELETIONS:]
    found: list[IncompleteErasure] = []
    for one in deletions:
        for version in sorted({1, one.version - 1}):
            row = (await log.stream_rows(one.stream_id, after=version - 1, limit=1))[0]
            if row.data is not None:
                found.append(IncompleteErasure(one.stream_id, row.position, one.version))
                break
    for one in [one for one in event_headers if one.type == MESSAGE_REDACTED][-DELETIONS:]:
        (redaction,) = await log.stream_rows(one.stream_id, after=one.version - 1, limit=1)
        versions = redacted_versions(redaction)
        for version in {versions[0], versions[-1]} if versions else ():
            row = (await log.stream_rows(one.stream_id, after=version - 1, limit=1))[0]
            if row.data is not None:
                found.append(IncompleteErasure(one.stream_id, row.position, one.version))
                break
    return found


async def _find_fault(log: EventLog) -> str | None:
    last = log.head().position
    if last == 0:
        return None
    tail = max(last - TAIL_ROWS, 0)
    between = {1 + tail * probe // PROBES for probe in range(PROBES)} if tail else set[int]()
    for position in sorted(between):
        reason = await _check_range(log, max(position - 1, 0), min(position + 1, last), probing=True)
        if reason is not None:
            return reason
    return await _check_range(log, tail, last, probing=False)


async def _check_range(log: EventLog, after: int, last: int, *, probing: bool) -> str | None:
    """Check the chain of the rows after `after` up to `last`, beginning with the digest of the row before them."""
    previous = await _read_row(log, after) if after else None
    if after and previous is None:
        return f"no event is at position {after}"
    digest, reached = previous.digest if previous else GENESIS, after
    while reached < last:
        page = await log.rows(after=reached, limit=min(PAGE, last - reached))
        if not page:
            return f"no event is at position {reached + 1}"
        for row in page:
            reason = _row_fault(row, reached + 1, digest) or (await _index_fault(log, row) if probing else None)
            if reason is not None:
                return reason
            digest, reached = row.digest, row.position
    return None


def _row_fault(row: StoredRow, position: int, digest: bytes) -> str | None:
    if row.position != position:
        return f"no event is at position {position}"
    if not is_readable(row.type, row.schema_version, row.metadata):
        raise UnknownEvent(row.type, row.schema_version)
    fault = check_row(digest, row)
    return fault and f"at position {position}: {fault}"


async def _index_fault(log: EventLog, row: StoredRow) -> str | None:
    found = await log.stream_rows(row.stream_id, after=row.version - 1, limit=1)
    if not found or found[0].position != row.position:
        return f"the event at position {row.position} is not found by its session and version"
    return None


async def _read_row(log: EventLog, position: int) -> StoredRow | None:
    rows = await log.rows(after=position - 1, limit=1)
    return rows[0] if rows and rows[0].position == position else None
