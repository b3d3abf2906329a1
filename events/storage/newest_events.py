"""The newest events of a log in memory, as they were appended, for a reader that is close behind the end.

The projections read every event soon after its append: from here without a query. What this process has appended is
not decoded once more; of what others have sent only the texts are here, and each is decoded when it is read.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from msgspec import Struct
from msgspec.structs import replace

from events.codec import decode_metadata, decode_recorded
from events.record import RecordedEvent
from events.storage.append_batch import Outcome, PendingAppend

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
        self._events: deque[RecordedEvent | _EncodedEvent] = deque()
        self._appends: deque[tuple[int, int]] = deque()  # how many events, and the bytes of their data
        self._bytes = 0
        self._newest = 0  # the position of the last event

    def add(self, batch: Sequence[PendingAppend], outcomes: Sequence[Outcome]) -> None:
        """A batch is committed: keep its events, and drop the oldest."""
        if any(append.removes_content for append in batch):
            self.clear()
            return
        for append, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, tuple) or not outcome:
                continue
            if self._events and self._newest + 1 != outcome[0].position:
                self.clear()
            if outcome[0].event is None:  # appended by a process that has sent only the texts
                text, contents = append.metadata_text, append.contents
                self._events += [
                    _EncodedEvent(one, text, content.data) for one, content in zip(outcome, contents, strict=True)
                ]
            else:
                self._events += outcome
            self._newest = outcome[-1].position
            self._appends.append((len(outcome), append.size))
            self._bytes += append.size
        while len(self._events) > EVENTS_MAX or self._bytes > BYTES_MAX:
            self._drop_oldest()

    def clear(self) -> None:
        self._events.clear()
        self._appends.clear()
        self._bytes = 0

    def after(self, position: int, limit: int) -> list[RecordedEvent] | None:
        """At most `limit` events after `position`; None if the first of them is not here, or with no positive limit.
        Raises UnknownEvent or ValueError as events.codec does.
        """
        if limit < 1:
            return None
        start = position - (self._newest - len(self._events))
        if not 0 <= start < len(self._events):
            return None
        return [
            _decoded(one) if isinstance(one, _EncodedEvent) else one
            for one in islice(self._events, start, start + limit)
        ]

    def _drop_oldest(self) -> None:
        events, size = self._appends.popleft()
        self._bytes -= size
        for _ in range(events):
            self._events.popleft()


def _decoded(one: _EncodedEvent) -> RecordedEvent:
    envelope, metadata = one.envelope, decode_metadata(one.metadata)
    event = decode_recorded(envelope.type, envelope.schema_version, one.data, metadata)
    return replace(envelope, metadata=metadata, event=event)
