"""Finds all incomplete erasures of a log in one pass over its rows, without verifying them: faster than `verify`."""

from collections.abc import Iterable, Iterator

from events.errors import LogUnavailable
from events.integrity.chain_verifier import PAGE_ROWS, RAW_EXPLAINING_TYPES
from events.integrity.incomplete_erasures import IncompleteErasure, find_incomplete_erasure
from events.log import EventLog, RowScanner
from events.record import RawColumns

POSITION, STREAM, TYPE, DATA = 0, 1, 3, 7  # indices of a row's columns


class ErasureScan:
    """Sessions with content before an event that erases it. Memory grows with the number of sessions."""

    def __init__(self) -> None:
        self.position = 0
        self.suspected_streams: list[bytes] = []
        self._with_content: set[bytes] = set()

    def add(self, rows: Iterable[RawColumns]) -> None:
        for row in rows:
            stream = row[STREAM]
            if row[TYPE] in RAW_EXPLAINING_TYPES and stream in self._with_content:
                self._with_content.discard(stream)  # added once for each event that erases it
                self.suspected_streams.append(stream)
            if row[DATA] is not None:
                self._with_content.add(stream)
            self.position = row[POSITION]


async def scan_incomplete_erasures(log: EventLog) -> list[IncompleteErasure]:
    """The incomplete erasures, each session once. Raises LogUnavailable."""
    scan = ErasureScan()

    def take(rows: Iterator[RawColumns]) -> int:
        scan.add(rows)
        return scan.position

    if not isinstance(log, RowScanner):
        raise LogUnavailable("the rows of this store cannot be scanned")
    reached = 0
    while (position := await log.scan_rows(take, after=reached, limit=PAGE_ROWS)) != reached:
        reached = position
    names = dict.fromkeys(stream.decode(errors="surrogateescape") for stream in scan.suspected_streams)
    found = [await find_incomplete_erasure(log, name) for name in names]  # it may have been erased during the scan
    return [one for one in found if one is not None]
