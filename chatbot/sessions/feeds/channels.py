"""What has just been recorded, for those who follow a session: the newest events, once for all readers.

A reader is a cursor, never a queue. Who lags behind the events kept here reads the log instead.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

from chatbot.sessions.replies.change_signal import Signal
from events.catalogue import ERASURE_TYPES
from events.record import RecordedEvent

KEPT_MAX = 64  # events: about a minute of a running reply, which records one each second; who lags more reads the log
KEPT_MAX_CHARS = 262_144  # of their texts: there is a channel for each of many sessions, and texts may be long


class Channel:
    """The newest events of one session, gapless. `latest` is the newest version known, whether kept or not.

    `erasures` counts: events that were taken before the last one may be erased by now. `newest` is the piece of a
    running reply's text that was handed out last, by what tells it apart, as its readers' edge has encoded it.
    """

    def __init__(self, closed: Callable[[], object] = lambda: None) -> None:
        self._closed = closed  # to be called when the last reader has left
        self.signal = Signal()
        self.latest = 0
        self.readers = 0
        self.erasures = 0
        self.newest: tuple[object, bytes] | None = None
        self._kept: deque[RecordedEvent] = deque()
        self._kept_chars = 0

    def __enter__(self) -> Self:
        """One more reader follows. The channel is the context itself, so that a reader costs no memory for that."""
        self.readers += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.readers -= 1
        if not self.readers:
            self._closed()

    def advance_to(self, version: int) -> None:
        """The log is known to have this version: who has not is to look there, should it not come here."""
        if version > self.latest:
            self.latest = version
            self.signal.notify()

    def add(self, recorded: Sequence[RecordedEvent]) -> None:
        """More has been recorded: keep it, and wake the readers."""
        kept = self._kept[-1].version if self._kept else 0
        for one in recorded:
            if one.version <= kept:  # told by the session's actor and by the log's tail
                continue
            is_gap = bool(self._kept) and self._kept[-1].version + 1 != one.version  # another process wrote between
            erases = one.type in ERASURE_TYPES
            self.erasures += erases
            if is_gap or erases:  # what is erased must not be handed out from memory
                self._kept.clear()
                self._kept_chars, self.newest = 0, None
            self._keep(one)
            self.latest = max(self.latest, one.version)
        self.signal.notify()

    def _keep(self, one: RecordedEvent) -> None:
        """The newest event, however long; of those before it as many as there is room for."""
        self._kept.append(one)
        self._kept_chars += _chars(one)
        while len(self._kept) > 1 and (len(self._kept) > KEPT_MAX or self._kept_chars > KEPT_MAX_CHARS):
            self._kept_chars -= _chars(self._kept.popleft())

    def after(self, version: int) -> list[RecordedEvent] | None:
        """The events after `version`; None when some of them are in the log only."""
        if version >= self.latest:
            return []
        # The newest may not have come here yet, where another node has recorded it.
        if self._kept and self._kept[0].version <= version + 1 and self._kept[-1].version >= self.latest:
            return [one for one in self._kept if one.version > version]
        return None


def _chars(recorded: RecordedEvent) -> int:
    """Of the event's text: of a message, or a piece of a reply."""
    event = recorded.event
    return len(getattr(event, "content", "")) + len(getattr(event, "text", ""))


class ChannelRegistry:
    """A channel for each session that has readers: an idle session costs no memory."""

    def __init__(self) -> None:
        self.closed = False
        self._channels: dict[str, Channel] = {}

    @property
    def count(self) -> int:
        """Readers that follow now."""
        return sum(channel.readers for channel in self._channels.values())

    def open(self, session_id: str) -> Channel:
        """The session's channel, to be entered at once and for as long as one reads it.

        Look into the log only after this: then nothing falls between.
        """
        channel = self._channels.get(session_id)
        if channel is None:
            channel = self._channels[session_id] = Channel(partial(self._channels.pop, session_id))
        return channel

    def of(self, session_id: str) -> Channel | None:
        """The session's channel, None where it has no readers."""
        return self._channels.get(session_id)

    def publish(self, session_id: str, recorded: Sequence[RecordedEvent]) -> None:
        """These events of the session are on disk."""
        channel = self._channels.get(session_id)
        if channel is not None and recorded:
            channel.add(recorded)

    def close(self) -> None:
        """The service is going down: readers are woken, send what they still have, and end."""
        self.closed = True
        for channel in self._channels.values():
            channel.signal.notify()
