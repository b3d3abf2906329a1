"""An LRU cache of message texts: clients read the same newest messages again and again."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from sys import getsizeof

from chatbot.sessions.replies.recorded_text import RecordedReply
from events.log import EventLog
from events.record import RecordedEvent
from events.schema.parts import ToolResult, flat

RUNNING_MAX = 64  # running replies whose recorded text is kept, for repeated reads of their sessions
_ENVELOPE_BYTES = 1_000  # approximate memory of a recorded event without its content
_PART_BYTES = 500  # approximate, of a part without its text: its kind, a call's id and name, a file's hash and name


class TextCache:
    """Recently read events with texts, by position, in about `bytes_max` of memory (0: none); and the recorded text of
    running replies.

    An event changes only by its erasure, and an erasure drops the whole cache. Callers get positions from projections
    that have everything recorded before the call, so none asks for a text that was erased before. `erasures` counts:
    what was read before the last erasure is not kept.
    """

    def __init__(self, log: EventLog, bytes_max: int) -> None:
        self._log = log
        self._bytes_max = bytes_max
        self._bytes = 0
        self.erasures = 0
        self._running: dict[str, RecordedReply] = {}  # by session, the oldest entry first
        self._kept: OrderedDict[int, RecordedEvent] = OrderedDict()  # least recently read first

    async def read(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """As EventLog.read_at."""
        found: dict[int, RecordedEvent] = {}
        missing: list[int] = []
        for position in positions:
            kept = self._kept.get(position)
            if kept is None:
                missing.append(position)
            else:
                self._kept.move_to_end(position)
                found[position] = kept
        if missing:
            erasures = self.erasures
            read = await self._log.read_at(missing)
            found.update(read)
            if erasures == self.erasures:  # otherwise it may contain what was erased during the read
                for recorded in read.values():
                    self._keep(recorded)
        return found

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """As EventLog.sizes; for cached events, an upper bound of their text's bytes."""
        sizes = {position: _text_bytes(self._kept[position]) for position in positions if position in self._kept}
        if missing := [position for position in positions if position not in sizes]:
            sizes |= await self._log.sizes(missing)
        return sizes

    def running_reply(self, session_id: str, started: int, version: int) -> RecordedReply | None:
        """The cached text of the reply that started at version `started`, if it is as of `version` or before."""
        known = self._running.get(session_id)
        return known if known is not None and started <= known.version <= version else None

    def keep_running_reply(self, session_id: str, known: RecordedReply | None, erasures: int) -> None:
        """Cache the text of a session's running reply; None: none runs. `erasures`: its value before the read."""
        self._running.pop(session_id, None)
        if known is not None and erasures == self.erasures and self._bytes_max:
            self._running[session_id] = known
            if len(self._running) > RUNNING_MAX:
                del self._running[next(iter(self._running))]

    def drop(self) -> None:
        """Empty the cache: some of it has been erased."""
        self.erasures += 1
        self._running.clear()
        self._kept.clear()
        self._bytes = 0

    def _keep(self, recorded: RecordedEvent) -> None:
        if recorded.event is None or recorded.position in self._kept:
            return
        self._kept[recorded.position] = recorded
        self._bytes += _memory_of(recorded)
        while self._bytes > self._bytes_max:
            self._bytes -= _memory_of(self._kept.popitem(last=False)[1])


def _text_bytes(recorded: RecordedEvent) -> int:
    return sum(_PART_BYTES + _encoded_bytes(text) for text in _part_texts(recorded)) + _encoded_bytes(
        _content(recorded)
    )


def _memory_of(recorded: RecordedEvent) -> int:
    """Approximate bytes."""
    parts = sum(_PART_BYTES + getsizeof(text) for text in _part_texts(recorded))
    return _ENVELOPE_BYTES + getsizeof(_content(recorded)) + parts


def _content(recorded: RecordedEvent) -> str:
    return getattr(recorded.event, "content", "")


def _part_texts(recorded: RecordedEvent) -> Iterator[str]:
    """The text of each part beside the content, those in tool results too."""
    for part in getattr(recorded.event, "parts", ()):
        yield flat(part)
        if isinstance(part, ToolResult):
            yield from map(flat, part.parts)


def _encoded_bytes(text: str) -> int:
    return len(text) if text.isascii() else 3 * len(text)
