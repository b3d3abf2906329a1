"""The newest events of a log in memory, as they were appended, for a reader that is close behind the end.

The projections read every event soon after its append: from here without a query. What this process has appended is
not decoded once more; of what others have sent only the texts are here, and each is decoded when it is read.
"""

from collections import deque
from collections.abc import Sequence
from itertools import chain, islice

from msgspec import Struct
from msgspec.structs import replace

from events.codec import decode_metadata, decode_recorded
from events.record import RecordedEvent
from events.storage.append_batch import BatchPlan, PendingAppend

EVENTS_MAX = 2_000  # a second of appends by one busy process; a reader that is further behind reads the store
BYTES_MAX = 4_194_304  # of their data: texts may be long


class _EncodedEvent(Struct, frozen=True, gc=False):
    """An event that another process has appended. `envelope` has neither metadata nor event."""

    envelope: RecordedEvent
    metadata: str
    data: str


class NewestEvents:
    """Without gaps, from old to new. Never has an event whose content may be erased: after an erasure it is empty."""

    def __init__(self) -> None:
        self._batches: deque[tuple[list[RecordedEvent | _EncodedEvent], int]] = deque()  # with the bytes of their data
        self._events = 0  # in all batches
        self._bytes = 0
        self._newest = 0  # the position of the last event

    def add(self, batch: Sequence[PendingAppend], planned: BatchPlan) -> None:
        """A batch is committed: keep its events, and drop the oldest batches."""
        if planned.removes_content:
            self.clear()
            return
        events: list[RecordedEvent | _EncodedEvent] = []
        for append, outcome in zip(batch, planned.outcomes, strict=True):
            if not isinstance(outcome, tuple) or not outcome:
                continue
            if outcome[0].event is None:  # appended by a process that has sent only the texts
                text, contents = append.metadata_text, append.contents
                events += [
                    _EncodedEvent(one, text, content.data) for one, content in zip(outcome, contents, strict=True)
                ]
            else:
                events += outcome
        if self._newest + len(events) != planned.head.position:
            self.clear()
        self._batches.append((events, planned.size))
        self._events += len(events)
        self._bytes += planned.size
        self._newest = planned.head.position
        while self._events > EVENTS_MAX or self._bytes > BYTES_MAX:
            dropped, size = self._batches.popleft()
            self._events -= len(dropped)
            self._bytes -= size

    def clear(self) -> None:
        self._batches.clear()
        self._events = self._bytes = 0

    def after(self, position: int, limit: int) -> list[RecordedEvent] | None:
        """At most `limit` events after `position`; None if the first of them is not here, or with no positive limit.
        Raises UnknownEvent or ValueError as events.codec does.
        """
        if limit < 1:
            return None
        behind = self._newest - position
        if not 0 < behind <= self._events:
            return None
        batches, found = list[list[RecordedEvent | _EncodedEvent]](), 0
        for events, _ in reversed(self._batches):  # a reader is nearly always a batch or two behind
            batches.append(events)
            found += len(events)
            if found >= behind:
                break
        before = found - behind
        events_after = islice(chain.from_iterable(reversed(batches)), before, before + limit)
        return [_decoded(one) if isinstance(one, _EncodedEvent) else one for one in events_after]


def _decoded(one: _EncodedEvent) -> RecordedEvent:
    envelope, metadata = one.envelope, decode_metadata(one.metadata)
    event = decode_recorded(envelope.type, envelope.schema_version, one.data, metadata)
    return replace(envelope, metadata=metadata, event=event)
