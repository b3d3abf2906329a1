"""Whether a log can be trusted enough to serve it: a bounded look at it, as quick for ten million events as for ten.

The whole chain is for `chatbot verify`, which reads every row. This looks at the first row, at pairs of rows spread
evenly over the log, found by position and by stream and version (so both trees of the file are walked down), and at the
chain of the newest rows, where torn writes and lost write-ahead logs show, and events of a newer program.
"""

from pathlib import Path

from events.catalogue import ERASURE_TYPES
from events.codec import is_readable
from events.errors import LogDamaged, LogUnavailable, LogUnusable, UnknownEvent
from events.integrity.hash_chain import GENESIS
from events.integrity.incomplete_erasures import IncompleteErasure
from events.integrity.row_checks import check_row
from events.log import EventLog
from events.record import StoredRow

TAIL_ROWS = 1000  # the newest rows: tens of milliseconds
PROBES = 64  # pairs of rows in between: each a few pages of a cold file
DELETIONS = 64  # of the newest in the tail: two rows of each
PAGE = 200


async def check_integrity(log: EventLog, place: Path | str) -> list[IncompleteErasure]:
    """Unfinished erasures among the newest deletions of the tail: such a log is served, so that they can be finished.
    `place` is the log's file, or what people call its database.

    Raises LogDamaged for a log that does not hold, LogUnusable for a newer program's; both say what to do.
    """
    try:
        reason = await _find_fault(log)
    except LogUnavailable as error:
        if "damaged" not in str(error):
            raise LogUnusable(str(error)) from error
        raise LogDamaged(place, "SQLite finds its pages damaged" if isinstance(place, Path) else str(error)) from error
    except UnknownEvent as error:
        raise LogUnusable(f"database {place} was written by a newer version of this program ({error})") from error
    if reason is not None:
        raise LogDamaged(place, reason)
    return await _find_incomplete_erasures(log)


async def _find_incomplete_erasures(log: EventLog) -> list[IncompleteErasure]:
    """Looks at the first event of each session that was deleted, and at the last one before its deletion."""
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
    """The chain of the rows after `after` up to `last`; the first of them is checked against the row before it."""
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
