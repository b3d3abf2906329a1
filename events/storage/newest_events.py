"""The newest events of a log in memory, as they were appended, for a reader that is close behind the end.

The projections read every event soon after its append: from here without a query, and without decoding it once more.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from events.record import RecordedEvent
from events.storage.append_batch import Outcome, PendingAppend

EVENTS_MAX = 2_000  # a second of appends by one busy process; a reader that is further behind reads the store
BYTES_MAX = 4_194_304  # of their data: texts may be long


class NewestEvents:
    """Without gaps, from old to new. Never has an event whose content may be erased: after an erasure it is empty."""

    def __init__(self) -> None:
        self._events: deque[RecordedEvent] = deque()
        self._appends: deque[tuple[int, int]] = deque()  # how many events, and the bytes of their data
        self._bytes = 0

    def add(self, batch: Sequence[PendingAppend], outcomes: Sequence[Outcome]) -> None:
        """A batch is committed: keep its events, and drop the oldest."""
        if any(append.removes_content for append in batch):
            self.clear()
            return
        for append, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, tuple) or not outcome:
                continue
            if any(one.event is None for one in outcome):  # appended by a process that has sent only the data
                self.clear()
                continue
            if self._events and self._events[-1].position + 1 != outcome[0].position:
                self.clear()
            self._events += outcome
            self._appends.append((len(outcome), append.size))
            self._bytes += append.size
        while len(self._events) > EVENTS_MAX or self._bytes > BYTES_MAX:
            self._drop_oldest()

    def clear(self) -> None:
        self._events.clear()
        self._appends.clear()
        self._bytes = 0

    def after(self, position: int, limit: int) -> list[RecordedEvent] | None:
        """At most `limit` events after `position`; None if the first of them is not here, or with no positive limit."""
        if limit < 1 or not self._events:
            return None
        start = position + 1 - self._events[0].position
        return list(islice(self._events, start, start + limit)) if 0 <= start < len(self._events) else None

    def _drop_oldest(self) -> None:
        events, size = self._appends.popleft()
        self._bytes -= size
        for _ in range(events):
            self._events.popleft()
