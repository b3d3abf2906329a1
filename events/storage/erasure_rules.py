"""Erasures in logs that are written by copying: an event that explains an erasure is never stored without the erasure.

In a live log the event and the erasure are one transaction. A copy receives the event from elsewhere: rows of its
session in the same batch are written without content, and those written before are erased in the same transaction.
"""

from collections.abc import Sequence
from typing import Protocol

from events.catalogue import ERASURE_TYPES, MESSAGE_REDACTED, Event
from events.codec import event_type
from events.record import DATA, SALT, STREAM, TYPE, VERSION, Columns, StoredRow

_EXPLAINING_TYPES = ERASURE_TYPES | {MESSAGE_REDACTED}
_KINDS = ", ".join(f"'{kind}'" for kind in sorted(ERASURE_TYPES))
# Erases all content whose erasure a later event of the stream explains. One scan finds those events. For both stores.
ERASE_ALL_EXPLAINED = (
    "UPDATE events SET data = NULL, salt = NULL WHERE position IN (SELECT earlier.position FROM"  # noqa: S608  constants
    f" (SELECT stream_id, max(version) AS version FROM events WHERE type IN ({_KINDS}) GROUP BY stream_id) AS last,"
    " events AS earlier WHERE earlier.stream_id = last.stream_id AND earlier.version < last.version"
    " AND earlier.data IS NOT NULL)"
)


class StreamReader(Protocol):
    """The part of EventLog that is needed here."""

    async def stream_rows(self, stream_id: str, *, after: int = 0, limit: int) -> list[StoredRow]: ...


def is_erasing_all(event: Event) -> bool:
    """Whether `event` erases all that is before it in its stream: of a message_redacted a trigger erases what it names.
    Raises ValueError for an event that erases nothing.
    """
    kind = event_type(event)
    if kind not in ERASURE_TYPES and kind != MESSAGE_REDACTED:
        raise ValueError(f"{kind} does not explain why content is gone")
    return kind in ERASURE_TYPES


async def check_erasure_explained(log: StreamReader, stream_id: str, version: int) -> None:
    """Raises ValueError unless the event at `version` explains why earlier content of the stream is gone."""
    rows = await log.stream_rows(stream_id, after=version - 1, limit=1)
    if not rows or rows[0].version != version or rows[0].type not in _EXPLAINING_TYPES:
        raise ValueError(f"version {version} of stream {stream_id} does not explain why content is gone")


def without_erased(rows: Sequence[Columns]) -> tuple[list[Columns], list[tuple[str, int]]]:
    """`rows` as they are to be written, and the erasures for the same transaction: (stream, version) stands for all
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
