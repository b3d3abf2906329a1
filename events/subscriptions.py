"""Subscriptions to single streams: a process is told what other processes append to the streams that it holds."""

from collections.abc import Sequence

from events.catalogue import CONTENT_REMOVING_TYPES, RESERVED_STREAMS
from events.log import AppendListener
from events.record import EventHeader

# Every process is told of events of these types and of these streams, whatever it holds: caches may have content that
# was removed, and keys and holds are known everywhere.
TOLD_TYPES = CONTENT_REMOVING_TYPES
TOLD_STREAMS = frozenset(RESERVED_STREAMS)


def is_told_to_all(stream_id: str, kind: str) -> bool:
    """Whether every process is told of events of this type in this stream."""
    return kind in TOLD_TYPES or stream_id in TOLD_STREAMS


class AppendListeners:
    """The listeners of one log, called in turn. Itself a listener."""

    def __init__(self) -> None:
        self._listeners: list[AppendListener] = []

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def add(self, listener: AppendListener) -> None:
        self._listeners.append(listener)

    def on_appended(self, headers: Sequence[EventHeader]) -> None:
        """As AppendListener.on_appended."""
        for listener in self._listeners:
            listener.on_appended(headers)

    def on_held(self, stream_id: str, version: int) -> None:
        """As AppendListener.on_held."""
        for listener in self._listeners:
            listener.on_held(stream_id, version)
