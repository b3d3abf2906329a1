"""What can still be read of a damaged log, and which of it is proven.

Rows are read by ranges of position; a range that SQLite cannot read is halved until single positions are left, so the
work is at most two queries per position. What it does not find is looked for on the file's own pages (leaves.py): a
torn inner page or a cut file hides rows that are still there.

A row is proven when its content fits its commitment and its digest follows from that of the row before. After a gap, or
after a row whose digest itself is in doubt, the row before says nothing: then a row is taken if the next one's digest
follows from its own, which damage cannot bring about; its envelope (time, type) is attested by nothing else, and it is
counted apart. The last row after a gap has no such witness: it is left.
"""

import sqlite3
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property
from pathlib import Path

import msgspec
from msgspec import Struct

from events.codec import decode, is_known, is_readable
from events.errors import LogUnusable
from events.integrity.hash_chain import GENESIS
from events.integrity.row_checks import check_commitment, check_link
from events.record import StoredRow, stored_row
from events.storage.sqlite.sqlite_schema import RAW_COLUMNS
from events.transfer.sqlite_page_reader import SqlitePageReader

RANGE = 512  # positions in one query, while nothing is wrong
_INTEGER_MAX = 2**63 - 1  # SQLite's
END_ROWS_MAX = 10**12  # a torn page may claim any position: beyond this none is believed

_READ = f"SELECT {RAW_COLUMNS} FROM events WHERE position >= ? AND position <= ? ORDER BY position LIMIT ?"  # noqa: S608  constants
_READ_ERRORS = (sqlite3.Error, MemoryError)  # a torn cell may claim any size


class RowStatus(Enum):
    """What is known of one position."""

    PROVEN = "proven"
    AFTER_GAP = "after a gap"
    ALTERED = "altered"
    UNREADABLE = "unreadable"


class ScannedRow(Struct, frozen=True):
    """One position of the damaged log. `row` is None where it is unreadable; `reason` says what is wrong."""

    position: int
    status: RowStatus
    row: StoredRow | None = None
    reason: str = ""


class CorruptLog:
    """A damaged log, opened to read; must be closed. All calls block: for a command, not for the service."""

    def __init__(self, path: Path) -> None:
        """Raises LogUnusable for a file of which SQLite can read nothing at all."""
        self._path = path
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            # Opens a file that is shorter than its header says, too. Nothing is written: the file is open to read.
            self._connection.execute("PRAGMA writable_schema=ON")
            self._connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'events'").fetchone()
            self.end, self.end_is_known = self._end()
        except _READ_ERRORS as error:
            self._connection.close()
            raise LogUnusable(
                f"database {path}: not even its first pages can be read ({error}): restore a backup"
            ) from error

    def close(self) -> None:
        self._connection.close()
        if "_page_reader" in self.__dict__:
            self._page_reader.close()

    @cached_property
    def _page_reader(self) -> SqlitePageReader:
        """Made when the first row is missed: that reads the whole file once."""
        return SqlitePageReader(self._path)

    def found(self, progress: Callable[[int], None]) -> Iterator[ScannedRow]:
        """Every position from 1 to the end, in order, with what is known of it."""
        before: StoredRow | None = None  # readable and right before `here`
        is_known = True  # the digest of `before` is the one that was recorded
        here: tuple[int, StoredRow | None] | None = None
        for there in self._positions(progress):
            if here is not None:
                one = _classify(here, before, there[1], is_known=is_known)
                yield one
                is_known = one.status is RowStatus.AFTER_GAP or (here[1] is not None and _is_linked(here[1], before))
                before = here[1]
            here = there
        if here is not None:
            yield _classify(here, before, None, is_known=is_known)

    def _positions(self, progress: Callable[[int], None]) -> Iterator[tuple[int, StoredRow | None]]:
        for first in range(1, self.end + 1, RANGE):
            last = min(first + RANGE - 1, self.end)
            rows = self._read(first, last)
            for position in range(first, last + 1):
                yield position, rows.get(position) or self._page_reader.row(position)
            progress(last)

    def _read(self, first: int, last: int) -> dict[int, StoredRow]:
        try:
            page = self._connection.execute(_READ, (first, last, last - first + 1)).fetchall()
        except _READ_ERRORS:
            if first == last:
                return {}
            middle = (first + last) // 2
            return self._read(first, middle) | self._read(middle + 1, last)
        # A torn inner page may lead to rows of another place: only what was asked for counts.
        return {row[0]: stored_row(row) for row in page if first <= row[0] <= last}

    def expect(self, position: int) -> None:
        """The log had at least so many events, as somebody else remembers."""
        self.end = max(self.end, min(position, END_ROWS_MAX))

    def digest_at(self, position: int) -> bytes | None:
        """The digest that the row at `position` has; None where it cannot be read."""
        row = self._read(position, position).get(position) or self._page_reader.row(position)
        return None if row is None else row.digest

    def _end(self) -> tuple[int, bool]:
        """The last position; where the way to it is torn, the last that the index knows, or any page. Whether there
        cannot have been more.
        """
        for query in (
            "SELECT max(position) FROM events",
            "SELECT max(+position) FROM events INDEXED BY sqlite_autoindex_events_1 WHERE stream_id >= ''",
        ):
            try:
                (end,) = self._connection.execute(query).fetchone()
            except _READ_ERRORS:
                continue
            return min(end or 0, END_ROWS_MAX), True
        return min(self._page_reader.last_known_position, END_ROWS_MAX), False


def _classify(
    here: tuple[int, StoredRow | None], before: StoredRow | None, after: StoredRow | None, *, is_known: bool
) -> ScannedRow:
    """`before` and `after` are the rows right beside, where read; `is_known`: the digest before is right."""
    position, row = here
    if row is None:
        return ScannedRow(position, RowStatus.UNREADABLE, None, "SQLite cannot read it")
    reason = check_commitment(row) or _decode_fault(row)
    if reason:
        return ScannedRow(position, RowStatus.ALTERED, row, reason)
    if _is_linked(row, before):
        return ScannedRow(position, RowStatus.PROVEN, row)
    if (
        position > 1
        and (before is None or not is_known)
        and after is not None
        and check_link(row.digest, after) is None
    ):
        return ScannedRow(position, RowStatus.AFTER_GAP, row)
    return ScannedRow(position, RowStatus.ALTERED, row, "its columns and those of the events beside it do not fit")


def _is_linked(row: StoredRow, before: StoredRow | None) -> bool:
    if before is None:
        return row.position == 1 and check_link(GENESIS, row) is None
    return check_link(before.digest, row) is None


def _decode_fault(row: StoredRow) -> str | None:
    """Why this program could not read the event back, undamaged as it may be."""
    try:
        if not is_readable(row.type, row.schema_version, row.metadata):
            return "its type is damaged, or newer than this program"
        row.stream_id.encode()
        msgspec.json.decode(row.metadata, type=dict)
        if not (0 < row.version <= _INTEGER_MAX and 0 <= row.recorded_at_us <= _INTEGER_MAX):
            return "a number is beyond what a log holds"
        if row.data is not None and is_known(row.type, row.schema_version):
            decode(row.type, row.schema_version, row.data)
    except Exception as error:  # noqa: BLE001  whatever a decoder says of damaged text
        return f"it cannot be read: {error}"
    return None
