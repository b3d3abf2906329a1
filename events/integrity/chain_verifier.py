"""Prove the log: walk its rows from the first and find the first that was changed, removed, inserted or moved.

The chain alone cannot show that the end of a log was cut off, or that somebody rewrote everything after a point and
computed the chain anew. A head noted elsewhere (an `anchor`) shows both.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from msgspec import Struct

from events.catalogue import ERASURE_TYPES
from events.integrity.hash_chain import GENESIS
from events.integrity.incomplete_erasures import IncompleteErasure, find_incomplete_erasure
from events.integrity.merkle_tree import MerkleTree
from events.integrity.row_checks import MALFORMED, check_row, is_intact
from events.log import EventLog, RowScanner
from events.record import Head, RawColumns, StoredRow, raw_columns, raw_text, stored_row

T = TypeVar("T")

PAGE_ROWS = 2000  # at once: a hop to the connection's thread costs as much as proving fifty, and 8 ms are no wait
SLICE_ROWS = 250  # proven at one go where it must be done on the event loop: half a millisecond
INCOMPLETE_ERASURES_MAX = 1000  # sessions with an unfinished erasure that a walk names
RAW_ERASURE_TYPES = frozenset(kind.encode() for kind in ERASURE_TYPES)
POSITION_MAX = 2**63 - 1
BEFORE_ALL = -(2**63) - 1  # a forged row may hide below position 1, even at SQLite's lowest integer


class ChainFault(Struct, frozen=True):
    """The first row that is not as it was recorded. `position` is where it is, or where it should be."""

    position: int
    reason: str


class ChainVerifier:
    """Checks rows one by one. Memory grows with the number of streams, not of events.

    `anchor` is a head noted elsewhere. With `start`, a head that is trusted, the walk begins after it: what lies
    before is not looked at. `tree` grows with the rows up to the anchor.
    """

    def __init__(
        self, expected_head: Head | None = None, start: Head | None = None, tree: MerkleTree | None = None
    ) -> None:
        self.position, self.digest = (start.position, start.digest) if start else (0, GENESIS)
        self.erased = 0
        self._expected_head = expected_head
        self._is_partial = start is not None
        self._tree = tree
        self._versions: dict[bytes, int] = {}  # streams by their raw ids
        self._first_versions: dict[
            str, int
        ] = {}  # streams that the walk has met in their middle: the first version met
        self._erased_of: dict[str, int] = {}  # erased events by stream
        # Streams of which the walk has seen content before an event that erases it. It may have been erased since.
        self.suspected_streams: set[str] = set()
        self.incomplete_erasures: list[
            IncompleteErasure
        ] = []  # those of which it was found to be there still, at most LEFTOVERS_MAX
        self._unexplained: dict[str, int] = {}  # stream: position of its first erased row with no reason after it

    @property
    def contradicts_expected_head(self) -> bool:
        """Whether start and anchor are about one position, but not about one log: the walk would pass by both."""
        expected_head = self._expected_head
        return (
            expected_head is not None
            and expected_head.position == self.position
            and expected_head.digest != self.digest
        )

    def step(self, row: StoredRow) -> ChainFault | None:
        """Check the next row; after a fault the walk is over."""
        reason = self._order_fault(row) or check_row(self.digest, row)
        if reason is not None:
            return ChainFault(self.position + 1, reason)
        self.position, self.digest = row.position, row.digest
        stream = raw_text(row.stream_id)
        if row.version > 1 and stream not in self._versions:
            self._first_versions[row.stream_id] = row.version
        self._versions[stream] = row.version
        if row.type in ERASURE_TYPES:
            self._unexplained.pop(row.stream_id, None)
            met = row.version - self._first_versions.get(row.stream_id, 1)
            if self._erased_of.get(row.stream_id, 0) < met:
                self.suspected_streams.add(row.stream_id)
        if row.data is None:
            self.erased += 1
            self._erased_of[row.stream_id] = self._erased_of.get(row.stream_id, 0) + 1
            self._unexplained.setdefault(row.stream_id, row.position)
        if self._tree is not None and (self._expected_head is None or row.position <= self._expected_head.position):
            self._tree.add(row.digest)
        if (
            self._expected_head is not None
            and row.position == self._expected_head.position
            and row.digest != self._expected_head.digest
        ):
            return ChainFault(row.position, "the chain is whole, but not the one that was noted: it was computed anew")
        return None

    def check_many(self, rows: Iterable[RawColumns], until: int | None = None) -> ChainFault | None:
        """`step` over the next rows, up to the first with a fault or the first beyond position `until`.

        Most rows have content and stand right behind the one before: those are proven here, in one go. Any other,
        whatever is the matter with it, is left to `step`.
        """
        versions, careful = self._versions, self._tree is not None
        noted = -1 if self._expected_head is None else self._expected_head.position
        end = POSITION_MAX if until is None else until
        last, previous = self.position, self.digest
        for row in rows:
            position, stream, version, kind, _, _, _, _, _, _, digest = row
            try:
                is_plain = position == last + 1 and version == versions.get(stream, 0) + 1 and is_intact(previous, row)
            except MALFORMED:
                is_plain = False
            if is_plain and position <= end and not (careful or position == noted or kind in RAW_ERASURE_TYPES):
                versions[stream] = version
                last, previous = position, digest
                continue
            self.position, self.digest = last, previous
            if position > end:
                break
            fault = self.step(stored_row(row))
            if fault is not None:
                return fault
            last, previous = position, digest
        self.position, self.digest = last, previous
        return None

    def end(self) -> ChainFault | None:
        """Check what only the whole log can tell."""
        if self._unexplained:
            return ChainFault(
                min(self._unexplained.values()), "content is gone and no later event of the stream says why"
            )
        if self._expected_head is not None and self.position < self._expected_head.position:
            return ChainFault(
                self.position + 1, f"the log ends here, but {self._expected_head.position} events were recorded"
            )
        return None

    @property
    def unexplained(self) -> dict[str, int]:
        """Streams with erased content and, so far, no reason: each with its last version that the walk has seen."""
        return {stream_id: self._versions[raw_text(stream_id)] for stream_id in self._unexplained}

    def explain(self, stream_id: str) -> None:
        """The reason was found beyond the walk."""
        self._unexplained.pop(stream_id, None)

    def _order_fault(self, row: StoredRow) -> str | None:
        if row.position != self.position + 1:
            return f"no event is here: the next one is at position {row.position}"
        known = self._versions.get(raw_text(row.stream_id))
        if known is None and self._is_partial:
            return None  # what came before in its stream was not looked at
        version = (known or 0) + 1
        if row.version != version:
            return f"version {row.version} of stream {row.stream_id} stands where {version} belongs"
        return None


async def verify(
    log: EventLog,
    walk: ChainVerifier | None = None,
    progress: Callable[[int], None] | None = None,
    until: int | None = None,
) -> tuple[ChainVerifier, ChainFault | None]:
    """Check a log page by page until no row is left; `progress` hears the position reached after each page.

    The chain may hold where an erasure is unfinished: `leftovers` of the walk has those. `walk` may bring an anchor, or
    a start. A log in use may be checked: the event that explains an erasure is never
    older than the page that showed it. With `until` the walk ends at that position, which must exist; an erasure may
    then be explained by a later event, whose place in the chain is not proven.
    """
    walk = walk or ChainVerifier()
    if walk.position:
        here = await log.rows(after=walk.position - 1, limit=1)
        if not here or here[0].position != walk.position:
            return walk, ChainFault(
                walk.position, "there is no event at the position to begin from: the end was cut off"
            )
        if here[0].digest != walk.digest:
            return walk, ChainFault(walk.position, "the digest is not the trusted one: the chain was computed anew")
        if walk.contradicts_expected_head:
            return walk, ChainFault(walk.position, "the digest is the trusted one, but not the one that was noted")
    fault = await _check_pages(log, walk, progress or _no_progress, until)
    if fault is not None:
        return walk, fault
    await _find_incomplete_erasures(log, walk)
    if until is not None:
        if walk.position < until:
            return walk, ChainFault(walk.position + 1, f"no event is here, but {until} events were recorded")
        await _find_later_explanations(log, walk)
    return walk, walk.end()


async def _find_incomplete_erasures(log: EventLog, walk: ChainVerifier) -> None:
    """Which suspects still hold content: of the others it was erased while the walk was under way."""
    for stream_id in sorted(walk.suspected_streams):
        left = await find_incomplete_erasure(log, stream_id)
        if left is not None:
            walk.incomplete_erasures.append(left)
        if len(walk.incomplete_erasures) == INCOMPLETE_ERASURES_MAX:
            return


async def _find_later_explanations(log: EventLog, walk: ChainVerifier) -> None:
    """Find what explains the erasures that the walk could not."""
    for stream_id, version in walk.unexplained.items():
        after, found = version, False
        while not found and (page := await log.stream_rows(stream_id, after=after, limit=PAGE_ROWS)):
            after, found = page[-1].version, any(row.type in ERASURE_TYPES for row in page)
        if found:
            walk.explain(stream_id)


async def _check_pages(
    log: EventLog, walk: ChainVerifier, progress: Callable[[int], None], until: int | None
) -> ChainFault | None:
    def check_in_reader_thread(rows: Iterator[RawColumns]) -> ChainFault | None:
        fault = walk.check_many(rows, until)
        deque(rows, maxlen=0)  # a row that cannot be read is told before any fault of its page
        return fault

    while True:
        before = walk.position
        if isinstance(log, RowScanner):
            fault = await log.scan_rows(check_in_reader_thread, after=before or BEFORE_ALL, limit=PAGE_ROWS)
        else:
            fault = await _check_page(log, walk, until)
        if fault is not None or walk.position == before:
            return fault
        progress(walk.position)
        if walk.position == until:
            return None


async def _check_page(log: EventLog, walk: ChainVerifier, until: int | None) -> ChainFault | None:
    page = await log.rows(after=walk.position or BEFORE_ALL, limit=PAGE_ROWS)
    for start in range(0, len(page), SLICE_ROWS):
        fault = walk.check_many(map(raw_columns, page[start : start + SLICE_ROWS]), until)
        if fault is not None:
            return fault
        await asyncio.sleep(0)
    return None


def _no_progress(position: int) -> None:
    """For whoever does not want to watch."""
