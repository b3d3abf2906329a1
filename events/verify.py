"""Prove the log: walk its rows from the first and find the first that was changed, removed, inserted or moved.

The chain alone cannot show that the end of a log was cut off, or that somebody rewrote everything after a point and
computed the chain anew. A head noted elsewhere (an `anchor`) shows both.
"""

import struct
from collections.abc import AsyncIterator, Callable

from msgspec import Struct

from events.catalogue import EXPLAINS_ERASURE
from events.chain import GENESIS, SALT_BYTES, commit, link
from events.log import EventLog
from events.merkle import Tree
from events.record import Head, StoredRow

PAGE_ROWS = 200
BEFORE_ALL = -(2**63) - 1  # a forged row may hide below position 1, even at SQLite's lowest integer


class Fault(Struct, frozen=True):
    """The first row that is not as it was recorded. `position` is where it is, or where it should be."""

    position: int
    reason: str


class Walk:
    """Checks rows one by one. Memory grows with the number of streams, not of events.

    `anchor` is a head noted elsewhere. With `start`, a head that is trusted, the walk begins after it: what lies
    before is not looked at. `tree` grows with the rows up to the anchor.
    """

    def __init__(self, anchor: Head | None = None, start: Head | None = None, tree: Tree | None = None) -> None:
        self.position, self.digest = (start.position, start.digest) if start else (0, GENESIS)
        self.erased = 0
        self._anchor = anchor
        self._is_partial = start is not None
        self._tree = tree
        self._versions: dict[str, int] = {}
        self._unexplained: dict[str, int] = {}  # stream: position of its first erased row with no reason after it

    @property
    def disagrees(self) -> bool:
        """Whether start and anchor are about one position, but not about one log: the walk would pass by both."""
        anchor = self._anchor
        return anchor is not None and anchor.position == self.position and anchor.digest != self.digest

    def step(self, row: StoredRow) -> Fault | None:
        """Check the next row; after a fault the walk is over."""
        reason = self._misplaced(row) or self._altered(row)
        if reason is not None:
            return Fault(self.position + 1, reason)
        self.position, self.digest = row.position, row.digest
        self._versions[row.stream_id] = row.version
        if self._tree is not None and (self._anchor is None or row.position <= self._anchor.position):
            self._tree.add(row.digest)
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

    @property
    def unexplained(self) -> dict[str, int]:
        """Streams with erased content and, so far, no reason: each with its last version that the walk has seen."""
        return {stream_id: self._versions[stream_id] for stream_id in self._unexplained}

    def explain(self, stream_id: str) -> None:
        """The reason was found beyond the walk."""
        self._unexplained.pop(stream_id, None)

    def _misplaced(self, row: StoredRow) -> str | None:
        if row.position != self.position + 1:
            return f"no event is here: the next one is at position {row.position}"
        known = self._versions.get(row.stream_id)
        if known is None and self._is_partial:
            return None  # what came before in its stream was not looked at
        version = (known or 0) + 1
        if row.version != version:
            return f"version {row.version} of stream {row.stream_id} stands where {version} belongs"
        return None

    def _altered(self, row: StoredRow) -> str | None:
        if (row.data is None) != (row.salt is None):
            return "content and salt must be erased together"
        try:
            if row.data is not None and row.salt is not None:
                if len(row.salt) != SALT_BYTES:  # else bytes could be moved between salt and data: one commitment
                    return "the salt has another length than any log writes"
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


async def verify(
    log: EventLog,
    walk: Walk | None = None,
    progress: Callable[[int], None] | None = None,
    until: int | None = None,
) -> tuple[Walk, Fault | None]:
    """Check a log page by page until no row is left; `progress` hears the position reached after each page.

    `walk` may bring an anchor, or a start. A log in use may be checked: the event that explains an erasure is never
    older than the page that showed it. With `until` the walk ends at that position, which must exist; an erasure may
    then be explained by a later event, whose place in the chain is not proven.
    """
    walk = walk or Walk()
    if walk.position:
        here = await log.rows(after=walk.position - 1, limit=1)
        if not here or here[0].position != walk.position:
            return walk, Fault(walk.position, "there is no event at the position to begin from: the end was cut off")
        if here[0].digest != walk.digest:
            return walk, Fault(walk.position, "the digest is not the trusted one: the chain was computed anew")
        if walk.disagrees:
            return walk, Fault(walk.position, "the digest is the trusted one, but not the one that was noted")
    async for row in _rows(log, walk.position or BEFORE_ALL, progress or _silent):
        if until is not None and row.position > until:
            break
        fault = walk.step(row)
        if fault is not None:
            return walk, fault
    if until is not None:
        if walk.position < until:
            return walk, Fault(walk.position + 1, f"no event is here, but {until} events were recorded")
        await _look_beyond(log, walk)
    return walk, walk.end()


async def _look_beyond(log: EventLog, walk: Walk) -> None:
    """Find what explains the erasures that the walk could not."""
    for stream_id, version in walk.unexplained.items():
        after, found = version, False
        while not found and (page := await log.stream_rows(stream_id, after=after, limit=PAGE_ROWS)):
            after, found = page[-1].version, any(row.type in EXPLAINS_ERASURE for row in page)
        if found:
            walk.explain(stream_id)


async def _rows(log: EventLog, reached: int, progress: Callable[[int], None]) -> AsyncIterator[StoredRow]:
    while page := await log.rows(after=reached, limit=PAGE_ROWS):
        for row in page:
            yield row
        reached = page[-1].position
        progress(reached)


def _silent(position: int) -> None:
    """For whoever does not want to watch."""
