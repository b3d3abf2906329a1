"""Verification of the hash chain: checks every row, and finds the first that was changed, removed, inserted or moved.

The chain alone cannot detect that the end of a log was cut off, or that everything after some point was rewritten with
a new chain. A head that was kept elsewhere (`expected_head`) detects both.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from msgspec import Struct

from events.catalogue import ERASURE_TYPES
from events.integrity.erased_versions import RAW_MESSAGE_REDACTED, ErasedVersions, redacted_versions
from events.integrity.file_check import NotedReferences
from events.integrity.hash_chain import GENESIS
from events.integrity.incomplete_erasures import IncompleteErasure, find_incomplete_erasure
from events.integrity.merkle_tree import MerkleTree
from events.integrity.redaction_check import find_redaction_fault
from events.integrity.row_checks import MALFORMED, check_row, is_intact
from events.log import EventLog, RowScanner
from events.record import Head, RawColumns, StoredRow, raw_columns, raw_text, stored_row

T = TypeVar("T")

PAGE_ROWS = 2000  # read at once: 8 ms; a call to the connection's thread costs as much as checking 50 rows
SLICE_ROWS = 250  # checked at once where that must be done on the event loop: 0.5 ms
INCOMPLETE_ERASURES_MAX = 1000  # sessions with an incomplete erasure that one verification lists
RAW_ERASURE_TYPES = frozenset(kind.encode() for kind in ERASURE_TYPES)
RAW_EXPLAINING_TYPES = RAW_ERASURE_TYPES | {RAW_MESSAGE_REDACTED}
POSITION_MAX = 2**63 - 1
BEFORE_ALL = -(2**63) - 1  # a forged row may have a position below 1, down to SQLite's lowest integer


class ChainFault(Struct, frozen=True):
    """The first row that differs from what was recorded. `position` is its position, or where it should be."""

    position: int
    reason: str


class ChainVerifier:
    """Checks rows one by one. Memory grows with the number of streams, not of events.

    `expected_head` is a head that was kept elsewhere. With `start`, a trusted head, verification begins after it and
    does not read earlier rows. `tree` gets the digests of the rows up to the expected head, `references` what events
    refer to.
    """

    def __init__(
        self,
        expected_head: Head | None = None,
        start: Head | None = None,
        tree: MerkleTree | None = None,
        references: NotedReferences | None = None,
    ) -> None:
        self.position, self.digest = (start.position, start.digest) if start else (0, GENESIS)
        self.erased = 0
        self._expected_head = expected_head
        self._is_partial = start is not None
        self._tree = tree
        self._references = references
        self._versions: dict[bytes, int] = {}  # last version of each stream, by its raw id
        # The first version that was checked, of streams that began before `start`.
        self._first_versions: dict[str, int] = {}
        self._erased_of: dict[str, int] = {}  # erased events by stream
        # Streams with content before an event that erases it. It may have been erased after the row was read.
        self.suspected_streams: set[str] = set()
        # Those of the suspected streams whose content is confirmed to be left, at most INCOMPLETE_ERASURES_MAX.
        self.incomplete_erasures: list[IncompleteErasure] = []
        # Redactions among the rows checked since the caller took them: stream and version.
        self.redactions: list[tuple[str, int]] = []
        self._unexplained: dict[str, ErasedVersions] = {}  # by stream, erased versions that no later event explains

    @property
    def contradicts_expected_head(self) -> bool:
        """Whether the start has the position of the expected head but another digest: no row would be compared then."""
        expected_head = self._expected_head
        return (
            expected_head is not None
            and expected_head.position == self.position
            and expected_head.digest != self.digest
        )

    def check(self, row: StoredRow) -> ChainFault | None:
        """Check the next row. After a fault the verifier must not be used any more."""
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
            checked = row.version - self._first_versions.get(row.stream_id, 1)
            if self._erased_of.get(row.stream_id, 0) < checked:
                self.suspected_streams.add(row.stream_id)
        if versions := redacted_versions(row):
            self.redactions.append((row.stream_id, row.version))
            first = self._first_versions.get(row.stream_id, 1)
            if not self.explain(row.stream_id, [version for version in versions if version >= first]):
                self.suspected_streams.add(row.stream_id)
        if row.data is None:
            self.erased += 1
            self._erased_of[row.stream_id] = self._erased_of.get(row.stream_id, 0) + 1
            self._unexplained.setdefault(row.stream_id, ErasedVersions()).add(row.version, row.position)
        if self._tree is not None and (self._expected_head is None or row.position <= self._expected_head.position):
            self._tree.add(row.digest)
        if self._references is not None:
            self._references.note(row)
        if (
            self._expected_head is not None
            and row.position == self._expected_head.position
            and row.digest != self._expected_head.digest
        ):
            return ChainFault(row.position, "the chain is whole, but not the one that was noted: it was recomputed")
        return None

    def check_many(self, rows: Iterable[RawColumns], until: int | None = None) -> ChainFault | None:
        """As `check`, of the next rows, up to the first with a fault or the first beyond position `until`.

        Rows with content that directly follow the row before, which most do, take a fast path. All others are left to
        `check`.
        """
        versions, has_tree = self._versions, self._tree is not None
        expected = -1 if self._expected_head is None else self._expected_head.position
        end = POSITION_MAX if until is None else until
        last, previous = self.position, self.digest
        for row in rows:
            position, stream, version, kind, _, _, _, _, _, _, digest = row
            try:
                is_plain = position == last + 1 and version == versions.get(stream, 0) + 1 and is_intact(previous, row)
            except MALFORMED:
                is_plain = False
            if is_plain and position <= end and not (has_tree or position == expected or kind in RAW_EXPLAINING_TYPES):
                versions[stream] = version
                last, previous = position, digest
                continue
            self.position, self.digest = last, previous
            if position > end:
                break
            fault = self.check(stored_row(row))
            if fault is not None:
                return fault
            last, previous = position, digest
        self.position, self.digest = last, previous
        return None

    def finish(self) -> ChainFault | None:
        """Check what only the complete log can show."""
        if self._unexplained:
            return ChainFault(
                min(one.first_position for one in self._unexplained.values()),
                "content is gone and no later event of the stream says why",
            )
        if self._expected_head is not None and self.position < self._expected_head.position:
            return ChainFault(
                self.position + 1, f"the log ends here, but {self._expected_head.position} events were recorded"
            )
        return None

    @property
    def unexplained(self) -> dict[str, int]:
        """Streams with erased content that no event checked so far explains, each with the last version checked."""
        return {stream_id: self._versions[raw_text(stream_id)] for stream_id in self._unexplained}

    @property
    def first_unexplained(self) -> dict[str, int]:
        """The first of those erased versions, by stream."""
        return {stream_id: one.first_version for stream_id, one in self._unexplained.items()}

    def mark_explained(self, stream_id: str) -> None:
        """An event after the verified range explains the erasures of this stream."""
        self._unexplained.pop(stream_id, None)

    def explain(self, stream_id: str, versions: Iterable[int]) -> bool:
        """A redaction explains the erasures of these versions. Returns whether all of them were found erased."""
        unexplained = self._unexplained.get(stream_id, ErasedVersions())
        had_all = unexplained.remove(versions)
        if not unexplained:
            self._unexplained.pop(stream_id, None)
        return had_all

    def _order_fault(self, row: StoredRow) -> str | None:
        if row.position != self.position + 1:
            return f"no event is here: the next one is at position {row.position}"
        known = self._versions.get(raw_text(row.stream_id))
        if known is None and self._is_partial:
            return None  # earlier versions were not checked
        version = (known or 0) + 1
        if row.version != version:
            return f"version {row.version} of stream {row.stream_id} stands where {version} belongs"
        return None


async def verify(
    log: EventLog,
    verifier: ChainVerifier | None = None,
    progress: Callable[[int], None] | None = None,
    until: int | None = None,
) -> tuple[ChainVerifier, ChainFault | None]:
    """Verify a log page by page; `progress` is called with the position reached after each page.

    A log may be intact and have incomplete erasures, which `verifier.incomplete_erasures` lists. A log in use may be
    verified: the event that explains an erasure is never older than the page in which the erasure was seen. With
    `until`, verification ends at that position, which must exist; an erasure may then be explained by a later event,
    whose place in the chain is not verified. Returns the verifier, and the first fault or None. Raises LogUnavailable.
    """
    verifier = verifier or ChainVerifier()
    if verifier.position:
        here = await log.rows(after=verifier.position - 1, limit=1)
        if not here or here[0].position != verifier.position:
            return verifier, ChainFault(
                verifier.position, "there is no event at the position to begin from: the end was cut off"
            )
        if here[0].digest != verifier.digest:
            return verifier, ChainFault(
                verifier.position, "the digest is not the trusted one: the chain was recomputed"
            )
        if verifier.contradicts_expected_head:
            return verifier, ChainFault(
                verifier.position, "the digest is the trusted one, but not the one that was noted"
            )
    fault = await _check_pages(log, verifier, progress or _no_progress, until)
    if fault is not None:
        return verifier, fault
    await _find_incomplete_erasures(log, verifier)
    if until is not None:
        if verifier.position < until:
            return verifier, ChainFault(verifier.position + 1, f"no event is here, but {until} events were recorded")
        await _find_later_explanations(log, verifier)
    return verifier, await _located(log, verifier, verifier.finish())


async def _located(log: EventLog, verifier: ChainVerifier, fault: ChainFault | None) -> ChainFault | None:
    """`fault` at the first event that is erased without a reason: the verifier may know only an earlier one."""
    positions = []
    for stream_id, version in verifier.first_unexplained.items():
        rows = await log.stream_rows(stream_id, after=version - 1, limit=1)
        positions += [row.position for row in rows]
    return fault if fault is None or not positions else ChainFault(min(positions), fault.reason)


async def _find_incomplete_erasures(log: EventLog, verifier: ChainVerifier) -> None:
    """Confirm which suspected streams still have content: that of others was erased during the verification."""
    for stream_id in sorted(verifier.suspected_streams):
        left = await find_incomplete_erasure(log, stream_id)
        if left is not None:
            verifier.incomplete_erasures.append(left)
        if len(verifier.incomplete_erasures) == INCOMPLETE_ERASURES_MAX:
            return


async def _find_later_explanations(log: EventLog, verifier: ChainVerifier) -> None:
    """Search for later events that explain the erasures in the verified range."""
    for stream_id, version in verifier.unexplained.items():
        after, found = version, False
        while not found and (page := await log.stream_rows(stream_id, after=after, limit=PAGE_ROWS)):
            after, found = page[-1].version, any(row.type in ERASURE_TYPES for row in page)
            for row in page:
                verifier.explain(stream_id, redacted_versions(row))
        if found:
            verifier.mark_explained(stream_id)


async def _check_pages(
    log: EventLog, verifier: ChainVerifier, progress: Callable[[int], None], until: int | None
) -> ChainFault | None:
    def check_in_reader_thread(rows: Iterator[RawColumns]) -> ChainFault | None:
        fault = verifier.check_many(rows, until)
        deque(rows, maxlen=0)  # so that a row that cannot be read raises before a fault of its page is returned
        return fault

    while True:
        before = verifier.position
        if isinstance(log, RowScanner):
            fault = await log.scan_rows(check_in_reader_thread, after=before or BEFORE_ALL, limit=PAGE_ROWS)
        else:
            fault = await _check_page(log, verifier, until)
        if fault is not None or verifier.position == before:
            return fault
        if (fault := await _check_redactions(log, verifier)) is not None:
            return fault
        progress(verifier.position)
        if verifier.position == until:
            return None


async def _check_redactions(log: EventLog, verifier: ChainVerifier) -> ChainFault | None:
    """Check what the redactions of the last page keep of the events before them."""
    redactions, verifier.redactions = verifier.redactions, []
    for stream_id, version in redactions:
        found = await find_redaction_fault(log, stream_id, version)
        if found is not None:
            return ChainFault(*found)
    return None


async def _check_page(log: EventLog, verifier: ChainVerifier, until: int | None) -> ChainFault | None:
    page = await log.rows(after=verifier.position or BEFORE_ALL, limit=PAGE_ROWS)
    for start in range(0, len(page), SLICE_ROWS):
        fault = verifier.check_many(map(raw_columns, page[start : start + SLICE_ROWS]), until)
        if fault is not None:
            return fault
        await asyncio.sleep(0)
    return None


def _no_progress(position: int) -> None:
    """The default for `progress`."""
