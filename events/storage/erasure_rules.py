"""Erasures in logs that are written by copying: the event that explains an erasure never arrives without the erasure.

Where DELETE erases, the event and the erasure are one transaction. A copy adds the same event from elsewhere: rows of
its session that come with it are written without content, and those written before are erased in the same transaction.
"""

from collections.abc import Sequence
from typing import Protocol

from events.catalogue import ERASURE_TYPES
from events.record import Columns, StoredRow

STREAM, VERSION, TYPE, DATA, SALT = 1, 2, 3, 7, 8  # places in a row's columns

_KINDS = ", ".join(f"'{kind}'" for kind in sorted(ERASURE_TYPES))
# Erases all content that a later event of its stream explains away. One scan finds those events; both stores take it.
ERASE_ALL_EXPLAINED = (
    "UPDATE events SET data = NULL, salt = NULL WHERE position IN (SELECT earlier.position FROM"  # noqa: S608  constants
    f" (SELECT stream_id, max(version) AS version FROM events WHERE type IN ({_KINDS}) GROUP BY stream_id) AS last,"
    " events AS earlier WHERE earlier.stream_id = last.stream_id AND earlier.version < last.version"
    " AND earlier.data IS NOT NULL)"
)


class StreamReader(Protocol):
    """As much of a log as is asked here."""

    async def stream_rows(self, stream_id: str, *, after: int = 0, limit: int) -> list[StoredRow]: ...


async def check_erasure_explained(log: StreamReader, stream_id: str, version: int) -> None:
    """Raises ValueError where no event at `version` explains why earlier content of the stream is gone."""
    rows = await log.stream_rows(stream_id, after=version - 1, limit=1)
    if not rows or rows[0].version != version or rows[0].type not in ERASURE_TYPES:
        raise ValueError(f"version {version} of stream {stream_id} does not explain why content is gone")


def without_erased(rows: Sequence[Columns]) -> tuple[list[Columns], list[tuple[str, int]]]:
    """`rows` as they are to be written, and what is to be erased in the same transaction: (stream, version) means all
    content of the stream before that version.
    """
    erasures: dict[str, int] = {}
    for row in rows:
        if row[TYPE] in ERASURE_TYPES:
            erasures[row[STREAM]] = max(row[VERSION], erasures.get(row[STREAM], 0))
    if not erasures:
        return list(rows), []
    return [_erased(row) if row[VERSION] < erasures.get(row[STREAM], 0) else row for row in rows], list(
        erasures.items()
    )


def _erased(row: Columns) -> Columns:
    return (*row[:DATA], None, None, *row[SALT + 1 :])
