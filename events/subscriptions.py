"""Subscriptions to single streams: a process is told what other processes append to the streams that it holds."""

from collections.abc import Sequence

from events.log import AppendListener
from events.record import BROADCAST_STREAMS, BROADCAST_TYPES, EventHeader


def is_broadcast(stream_id: str, kind: str) -> bool:
    """Whether every process is told of events of this type in this stream."""
    return kind in BROADCAST_TYPES or stream_id in BROADCAST_STREAMS


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
