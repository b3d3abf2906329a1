"""Reads the rows of a log from the pages of the SQLite file, without the B-tree, which may be torn.

Implements what https://www.sqlite.org/fileformat2.html says of pages (1.6) and records (2.1): cells of leaf pages have
a rowid and a record; long records continue on overflow pages. A row that is found proves nothing by itself; the hash
chain does. Calls block.
"""

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from events.record import StoredRow, stored_row

LEAF = 0x0D
INNER = 0x05  # interior page of the table: pairs of a child page and the last position in it, then the last child
INDEX_LEAF = 0x0A  # leaf page of the log's only index: stream, version, position
INDEX_COLUMNS = 3
ROW_BYTES_MIN = 64  # a row has a commitment and a digest at least: bounds the positions that torn pages may name
COLUMNS = 11
RECORD_BYTES_MAX = 256 * 2**20  # a torn cell may name any size
DEPTH_MAX = 20  # levels of a tree: torn pages may lead in circles
CANDIDATES_MAX = 4  # pages read for one position: torn ones may name positions that they do not contain
_TORN = (IndexError, ValueError, struct.error)
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class SqlitePageReader:
    """An index of the rows of each leaf page, built by reading the file once; in a temporary file, not in memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        header = self._file.read(100)
        size = int.from_bytes(header[16:18], "big")
        self._page_bytes = 65_536 if size == 1 else max(size, 512)
        self._usable = self._page_bytes - header[20]
        self._page_index = sqlite3.connect("", isolation_level=None)
        self._page_index.executescript("PRAGMA journal_mode = OFF; BEGIN; CREATE TABLE leaves (first, last, page)")
        self._pages = path.stat().st_size // self._page_bytes
        recorded_pages = int.from_bytes(header[28:32], "big")  # more than there are in a truncated file
        self._rows_max = max(self._pages, recorded_pages) * self._page_bytes // ROW_BYTES_MIN
        self._last_named_position = 0
        for page in range(1, self._pages + 1):
            self._index_page(page)
        self._page_index.execute("CREATE INDEX by_first ON leaves (first)")
        self._cached_page: tuple[int, dict[int, StoredRow]] = (0, {})

    @property
    def end(self) -> int:
        """The last position on any leaf page, 0 for none."""
        (end,) = self._page_index.execute("SELECT max(last) FROM leaves").fetchone()
        return end or 0

    @property
    def last_known_position(self) -> int:
        """The last position that any page names, also of rows that are lost."""
        return max(self.end, self._last_named_position)

    def row(self, position: int) -> StoredRow | None:
        """The row at `position`, if a leaf page contains it."""
        query = "SELECT page FROM leaves WHERE first <= ? AND last >= ? ORDER BY first DESC LIMIT ?"
        for (page,) in self._page_index.execute(query, (position, position, CANDIDATES_MAX)).fetchall():
            if self._cached_page[0] != page:
                self._cached_page = (page, self._rows(page))
            if position in self._cached_page[1]:
                return self._cached_page[1][position]
        return None

    def close(self) -> None:
        self._page_index.close()
        self._file.close()

    def _index_page(self, page: int) -> None:
        content = self._page(page)
        if content[0] == LEAF:
            numbers = list(self._rows(page))
            if numbers:
                self._page_index.execute("INSERT INTO leaves VALUES (?, ?, ?)", (min(numbers), max(numbers), page))
            return
        if content[0] == INNER and not self._is_above_events(content):
            return
        named = [position for position in self._named_positions(content) if 0 < position <= self._rows_max]
        self._last_named_position = max([self._last_named_position, *named])

    def _named_positions(self, page: bytes) -> Iterator[int]:
        """Positions that a page names without containing their rows."""
        if page[0] == INNER:
            for offset in _cells(page, header_bytes=12):
                with suppress(*_TORN):
                    position, _ = _varint(page, offset + 4)
                    yield position + 1  # the next page is not empty
        elif page[0] == INDEX_LEAF:
            for offset in _cells(page, header_bytes=8):
                with suppress(*_TORN):
                    length, start = _varint(page, offset)
                    values = _values(page[start : start + length])
                    if len(values) == INDEX_COLUMNS and isinstance(values[2], int):
                        yield values[2]

    def _is_above_events(self, page: bytes) -> bool:
        """Whether the rows below this inner page may be events: it depends on the first one that can be read. Those of
        files have ids that are no positions.
        """
        for _ in range(DEPTH_MAX):
            first = next(_cells(page, header_bytes=12), None)
            try:
                page = self._page(_child(page, first))
            except _TORN:
                return True
            if page[0] != INNER:
                return page[0] != LEAF or _has_event(page)
        return True

    def _rows(self, number: int) -> dict[int, StoredRow]:
        page = self._page(number)
        found: dict[int, StoredRow] = {}
        if page[0] != LEAF:
            return found
        for cell in _cells(page, header_bytes=8):
            try:
                length, offset = _varint(page, cell)
                position, offset = _varint(page, offset)
                if _count_columns(page, offset) != COLUMNS:  # a file's: its overflow pages need not be read
                    continue
                values = _values(self._record(page, offset, length))
                if len(values) == COLUMNS and values[0] is None and 0 < position < 2**63:
                    found[position] = stored_row((position, *values[1:]))
            except _TORN:
                continue
        return found

    def _page(self, number: int) -> bytes:
        if not 1 <= number <= self._pages:
            raise ValueError("the file has no such page")
        self._file.seek((number - 1) * self._page_bytes)
        return self._file.read(self._page_bytes)

    def _record(self, page: bytes, offset: int, length: int) -> bytes:
        """The complete record, with its overflow pages. Raises ValueError."""
        if length > min(RECORD_BYTES_MAX, self._pages * self._page_bytes):
            raise ValueError("no record is that long")
        usable, least = self._usable, (self._usable - 12) * 32 // 255 - 23
        here = length
        if length > usable - 35:
            here = least + (length - least) % (usable - 4)
            here = here if here <= usable - 35 else least
        parts, left = [page[offset : offset + here]], length - here
        following = page[offset + here : offset + here + 4]
        while left > 0:
            more = self._page(int.from_bytes(following, "big"))
            parts.append(more[4 : min(usable, 4 + left)])
            if not parts[-1]:
                raise ValueError("its rest is missing")
            left, following = left - len(parts[-1]), more[:4]
        return b"".join(parts)


def _cells(page: bytes, header_bytes: int) -> Iterator[int]:
    """The offsets of the cells of a page."""
    for index in range(int.from_bytes(page[3:5], "big")):
        try:
            (offset,) = struct.unpack_from(">H", page, header_bytes + 2 * index)
        except struct.error:
            return
        yield offset


def _child(inner: bytes, cell: int | None) -> int:
    """The number of the page below a cell of an inner page. Raises ValueError."""
    if cell is None:
        raise ValueError("the page has no cells")
    return int.from_bytes(inner[cell : cell + 4], "big")


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """A variable-length integer of 1 to 9 bytes, and the offset after it. Raises ValueError, IndexError."""
    value = 0
    for index in range(9):
        byte = data[offset + index]
        if index == 8:
            return value << 8 | byte, offset + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, offset + index + 1
    raise ValueError("no number")


def _has_event(leaf: bytes) -> bool:
    """Whether a row of this page has the columns of an event, or none can be read."""
    counts = []
    for cell in _cells(leaf, header_bytes=8):
        with suppress(*_TORN):
            _, offset = _varint(leaf, cell)
            _, offset = _varint(leaf, offset)
            counts.append(_count_columns(leaf, offset))
    return not counts or COLUMNS in counts


def _count_columns(page: bytes, start: int) -> int:
    """The number of columns of the record that begins at `start`. Raises ValueError, IndexError."""
    return len(_column_kinds(page, start)[1])


def _column_kinds(record: bytes, start: int = 0) -> tuple[int, list[int]]:
    """Where the columns begin, and the type of each, at most COLUMNS + 1 of them. Raises ValueError, IndexError."""
    length, offset = _varint(record, start)
    end, kinds = start + length, list[int]()
    while offset < end and len(kinds) <= COLUMNS:
        kind, offset = _varint(record, offset)
        kinds.append(kind)
    return end, kinds


def _values(record: bytes) -> list[Any]:
    """The columns of a record: int, bytes (also for text) or None. Raises ValueError, IndexError."""
    end, kinds = _column_kinds(record)
    values: list[Any] = []
    at = end
    for kind in kinds:
        if kind in (0, 8, 9):
            values.append(None if kind == 0 else kind - 8)
            continue
        size = _INTEGER_BYTES.get(kind, (kind - 12) // 2)
        if size < 0 or at + size > len(record):
            raise ValueError("a column is cut off")
        data, at = record[at : at + size], at + size
        values.append(int.from_bytes(data, "big", signed=True) if kind in _INTEGER_BYTES else data)
    return values
