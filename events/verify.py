"""Prove the log: walk its rows from the first and find the first that was changed, removed, inserted or moved.

The chain alone cannot show that the end of a log was cut off, or that somebody rewrote everything after a point and
computed the chain anew. A head noted elsewhere (an `anchor`) shows both.
"""

import struct
from collections.abc import AsyncIterator, Callable, Iterable

from msgspec import Struct

from events.catalogue import EXPLAINS_ERASURE
from events.chain import GENESIS, commit, link
from events.log import EventLog
from events.record import Head, StoredRow

PAGE_ROWS = 200
BEFORE_ALL = -(2**63)  # a forged row may hide below position 1


class Fault(Struct, frozen=True):
    """The first row that is not as it was recorded. `position` is where it is, or where it should be."""

    position: int
    reason: str


class Walk:
    """Checks rows one by one. Memory grows with the number of streams, not of events."""

    def __init__(self, anchor: Head | None = None) -> None:
        self.position = 0
        self.digest = GENESIS
        self.erased = 0
        self._anchor = anchor
        self._versions: dict[str, int] = {}
        self._unexplained: dict[str, int] = {}  # stream: position of its first erased row with no reason after it

    def step(self, row: StoredRow) -> Fault | None:
        """Check the next row; after a fault the walk is over."""
        reason = self._misplaced(row) or self._altered(row)
        if reason is not None:
            return Fault(self.position + 1, reason)
        self.position, self.digest = row.position, row.digest
        self._versions[row.stream_id] = row.version
        if row.type in EXPLAINS_ERASURE:
            self._unexplained.pop(row.stream_id, None)
        if row.data is None:
            self.erased += 1
            self._unexplained.setdefault(row.stream_id, row.position)
        if self._anchor is not None and row.position == self._anchor.position and row.digest != self._anchor.digest:
            return Fault(row.position, "the chain is whole, but not the one that was noted: it was computed anew")
        return None

    def end(self) -> Fault | None:
        """Check what only the whole log can tell."""
        if self._unexplained:
            return Fault(min(self._unexplained.values()), "content is gone and no later event of the stream says why")
        if self._anchor is not None and self.position < self._anchor.position:
            return Fault(self.position + 1, f"the log ends here, but {self._anchor.position} events were recorded")
        return None

    def _misplaced(self, row: StoredRow) -> str | None:
        if row.position != self.position + 1:
            return f"no event is here: the next one is at position {row.position}"
        version = self._versions.get(row.stream_id, 0) + 1
        if row.version != version:
            return f"version {row.version} of stream {row.stream_id} stands where {version} belongs"
        return None

    def _altered(self, row: StoredRow) -> str | None:
        if (row.data is None) != (row.salt is None):
            return "content and salt must be erased together"
        try:
            if row.data is not None and row.salt is not None:
                commitment = commit(row.salt, row.data.encode())
                if commitment != row.commitment:
                    return "content, salt or commitment was changed"
            numbers = (row.position, row.version, row.schema_version, row.recorded_at_us)
            texts = (row.stream_id, row.type, row.metadata)
            if link(self.digest, numbers, texts, row.commitment) != row.digest:
                return "the digest does not follow from the event before and the columns of this one"
        except (AttributeError, TypeError, ValueError, struct.error) as error:
            return f"a column holds what no log writes: {error}"
        return None


def first_fault(rows: Iterable[StoredRow], anchor: Head | None = None) -> Fault | None:
    """The first fault of a whole log, None if it is as it was recorded."""
    walk = Walk(anchor)
    for row in rows:
        fault = walk.step(row)
        if fault is not None:
            return fault
    return walk.end()


async def verify(
    log: EventLog, anchor: Head | None = None, progress: Callable[[int], None] | None = None
) -> tuple[Walk, Fault | None]:
    """Check a log page by page until no row is left; `progress` hears the position reached after each page.

    A log in use may be checked: the event that explains an erasure is never older than the page that showed it.
    """
    walk = Walk(anchor)
    async for row in _rows(log, progress or _silent):
        fault = walk.step(row)
        if fault is not None:
            return walk, fault
    return walk, walk.end()


async def _rows(log: EventLog, progress: Callable[[int], None]) -> AsyncIterator[StoredRow]:
    reached = BEFORE_ALL
    while page := await log.rows(after=reached, limit=PAGE_ROWS):
        for row in page:
            yield row
        reached = page[-1].position
        progress(reached)


def _silent(position: int) -> None:
    """For whoever does not want to watch."""
