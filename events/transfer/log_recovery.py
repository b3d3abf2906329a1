"""Recovery of a damaged log: scans every position, and says what can be read and what is proven.

Rows are read by ranges of position; a range that SQLite cannot read is halved down to single positions, so there are at
most two queries per position. Rows that SQLite does not find are searched for in the pages of the file
(sqlite_page_reader.py): a torn inner page or a truncated file hides rows that are still there.

A row is proven if its content matches its commitment and its digest follows from that of the row before. After a gap,
or after a row whose digest is itself in doubt, the row before proves nothing: then a row is accepted if the digest of
the next row follows from its own, which damage cannot produce. Nothing else proves its envelope (time, type), so such
rows are counted separately. The last row after a gap has no next row and is not accepted.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from functools import cached_property
from pathlib import Path

import msgspec
from msgspec import Struct

from events.codec import decode, is_known, is_readable
from events.errors import LogUnusable
from events.integrity.hash_chain import GENESIS
from events.integrity.row_checks import check_commitment, check_link
from events.media import MEDIA_CHUNK_BYTES, MediaMissing, MediaStat
from events.record import StoredRow, stored_row
from events.storage.sqlite.sqlite_media_schema import CHUNK_BITS
from events.storage.sqlite.sqlite_schema import RAW_COLUMNS
from events.transfer.sqlite_page_reader import SqlitePageReader

RANGE = 512  # positions in one query
_INTEGER_MAX = 2**63 - 1  # SQLite's
END_ROWS_MAX = 10**12  # a torn page may name any position: greater ones are ignored

_READ = f"SELECT {RAW_COLUMNS} FROM events WHERE position >= ? AND position <= ? ORDER BY position LIMIT ?"  # noqa: S608  constants
_FILE = "SELECT id, media_type, bytes FROM media WHERE sha256 = ?"
_CHUNK = "SELECT data FROM media_chunks WHERE id = ?"
_READ_ERRORS = (sqlite3.Error, MemoryError)  # a torn cell may name any size


class RowStatus(Enum):
    """What is known of one position."""

    PROVEN = "proven"
    AFTER_GAP = "after a gap"
    ALTERED = "altered"
    UNREADABLE = "unreadable"


class ScannedRow(Struct, frozen=True):
    """One position of the damaged log. `row` is None where it is unreadable; `reason` describes the fault."""

    position: int
    status: RowStatus
    row: StoredRow | None = None
    reason: str = ""


class CorruptLogFiles:
    """The files of a damaged log. Implements FileSource: what cannot be read is missing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def stat(self, sha256: Sequence[str]) -> dict[str, MediaStat]:
        found = {}
        for one in sha256:
            with suppress(*_READ_ERRORS, ValueError):
                for _, media_type, size in self._connection.execute(_FILE, (bytes.fromhex(one),)).fetchall():
                    fields = {"sha256": one, "media_type": media_type, "bytes": size}
                    found[one] = msgspec.convert(fields, MediaStat)  # a torn row may hold values of any type
        return found

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        """Chunk by chunk: each is searched for by its own id. Raises MediaMissing."""
        try:
            ((media_id, _, size),) = self._connection.execute(_FILE, (bytes.fromhex(sha256),)).fetchall()
            for number in range(-(-size // MEDIA_CHUNK_BYTES)):
                ((chunk,),) = self._connection.execute(_CHUNK, (media_id << CHUNK_BITS | number,)).fetchall()
                if not isinstance(chunk, bytes):  # of a torn page
                    raise MediaMissing(sha256)
                yield chunk[: size - number * MEDIA_CHUNK_BYTES]
        except (*_READ_ERRORS, ValueError, TypeError) as error:
            raise MediaMissing(sha256) from error


class CorruptLog:
    """A damaged log, opened read-only; must be closed. Calls block: for commands, not for the service."""

    def __init__(self, path: Path) -> None:
        """Raises LogUnusable for a file of which SQLite cannot read anything."""
        self._path = path
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            # Needed to open a file that is shorter than its header says. Nothing is written: it is open read-only.
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

    @property
    def files(self) -> CorruptLogFiles:
        """The files that messages refer to."""
        return CorruptLogFiles(self._connection)

    @cached_property
    def _page_reader(self) -> SqlitePageReader:
        """Created when the first row is missing, as that reads the whole file once."""
        return SqlitePageReader(self._path)

    def scan(self, progress: Callable[[int], None]) -> Iterator[ScannedRow]:
        """Every position from 1 to the end, in order, with its status."""
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
        # A torn inner page may lead to rows of other positions: those are ignored.
        return {row[0]: stored_row(row) for row in page if first <= row[0] <= last}

    def expect(self, position: int) -> None:
        """The log is known from elsewhere to have had at least this many events."""
        self.end = max(self.end, min(position, END_ROWS_MAX))

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the row at `position`; None where it cannot be read."""
        row = self._read(position, position).get(position) or self._page_reader.row(position)
        return None if row is None else row.digest

    def _end(self) -> tuple[int, bool]:
        """The last position, and whether it is certain. Where the table is torn, the last position in the index counts;
        where that is torn, too, the last that any page names, which is not certain.
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
    """`before` and `after` are the adjacent rows, if readable; `is_known`: the digest of `before` is as recorded."""
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
    return ScannedRow(position, RowStatus.ALTERED, row, "its columns do not match those of the adjacent events")


def _is_linked(row: StoredRow, before: StoredRow | None) -> bool:
    if before is None:
        return row.position == 1 and check_link(GENESIS, row) is None
    return check_link(before.digest, row) is None


def _decode_fault(row: StoredRow) -> str | None:
    """Why this program could not decode the event, even if it is undamaged."""
    try:
        if not is_readable(row.type, row.schema_version, row.metadata):
            return "its type is damaged, or newer than this program"
        row.stream_id.encode()
        msgspec.json.decode(row.metadata, type=dict)
        if not (0 < row.version <= _INTEGER_MAX and 0 <= row.recorded_at_us <= _INTEGER_MAX):
            return "a number is beyond what a log holds"
        if row.data is not None and is_known(row.type, row.schema_version):
            decode(row.type, row.schema_version, row.data)
    except Exception as error:  # noqa: BLE001  decoders of damaged text raise many types
        return f"it cannot be read: {error}"
    return None
