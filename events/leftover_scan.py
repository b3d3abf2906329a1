"""All unfinished erasures of a log, by one pass over its rows that proves nothing: faster than verify."""

from collections.abc import Iterable, Iterator

from events.errors import LogUnavailable
from events.leftovers import Leftover, find_leftover
from events.log import EventLog
from events.record import RawColumns
from events.verify import EXPLAINS_RAW, PAGE_ROWS, PassesRows

POSITION, STREAM, TYPE, DATA = 0, 1, 3, 7  # places in a row's columns


class Scan:
    """Sessions with content before an event that erases it. Memory grows with the number of sessions."""

    def __init__(self) -> None:
        self.position = 0
        self.suspects: list[bytes] = []
        self._with_content: set[bytes] = set()

    def add(self, rows: Iterable[RawColumns]) -> None:
        for row in rows:
            stream = row[STREAM]
            if row[TYPE] in EXPLAINS_RAW and stream in self._with_content:
                self._with_content.discard(stream)  # each is named once for each event that erases it
                self.suspects.append(stream)
            if row[DATA] is not None:
                self._with_content.add(stream)
            self.position = row[POSITION]


async def scan_leftovers(log: EventLog) -> list[Leftover]:
    """Each session once. Raises LogUnavailable."""
    scan = Scan()

    def take(rows: Iterator[RawColumns]) -> int:
        scan.add(rows)
        return scan.position

    if not isinstance(log, PassesRows):
        raise LogUnavailable("this store's rows cannot be passed over")
    reached = 0
    while (position := await log.pass_rows(take, after=reached, limit=PAGE_ROWS)) != reached:
        reached = position
    names = dict.fromkeys(stream.decode(errors="surrogateescape") for stream in scan.suspects)
    found = [await find_leftover(log, name) for name in names]  # an erasure may have come while it was read
    return [one for one in found if one is not None]
