"""Publish-subscribe within the process: signals, and the fan-out of a session's recorded events to its readers.

A reader is a cursor, never a queue: a slow one costs no memory. The newest events are cached once for all readers of a
session; a reader that lags behind the cache reads the log.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, Self

from events.catalogue import CONTENT_REMOVING_TYPES
from events.record import RecordedEvent
from events.schema.parts import count_chars

KEPT_MAX = 64  # events: about a minute of a running reply, which records one a second; slower readers read the log
KEPT_MAX_CHARS = 262_144  # of those events' texts: there are many sessions, and texts may be long


class Signal:
    """A set of callbacks for "something has changed". Carries no value: a listener looks for itself.

    Calls all listeners of that moment, synchronously. A listener must be quick and must not raise. One that is added
    later is not called: check the state first, then listen, without an await in between.
    """

    def __init__(self) -> None:
        self.listeners: set[Callable[[], None]] = set()

    def notify(self) -> None:
        for listener in tuple(self.listeners):  # a listener may remove itself
            listener()


async def wait_any(*signals: Signal) -> None:
    """Return when any of `signals` is notified. Misses nothing if no await lies between the check and this call."""
    notified: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not notified.done():
            notified.set_result(None)

    for signal in signals:
        signal.listeners.add(wake)
    try:
        await notified
    finally:
        for signal in signals:
            signal.listeners.discard(wake)


class Channel:
    """The newest events of one session, without gaps. `latest` is the newest known version, cached or not.

    `erasures` counts: events that were taken before the last erasure may be erased by now. `encoded_chunk` caches the
    last piece of a running reply's text as the HTTP edge has encoded it for its readers: (key, bytes).
    """

    def __init__(self, closed: Callable[[], object] = lambda: None) -> None:
        self._closed = closed  # called when the last reader has left
        self.signal = Signal()
        self.latest = 0
        self.readers = 0
        self.erasures = 0
        self.encoded_chunk: tuple[object, bytes] | None = None
        self._kept: deque[RecordedEvent] = deque()
        self._kept_chars = 0

    def __enter__(self) -> Self:
        """Subscribe one more reader. The channel itself is the context manager, so that a reader costs no object."""
        self.readers += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.readers -= 1
        if not self.readers:
            self._closed()

    def advance_to(self, version: int) -> None:
        """The log has this version: readers that do not get the event from here are to read it there."""
        if version > self.latest:
            self.latest = version
            self.signal.notify()

    def add(self, recorded: Sequence[RecordedEvent]) -> None:
        """Cache newly recorded events and wake the readers."""
        kept = self._kept[-1].version if self._kept else 0
        for one in recorded:
            if one.version <= kept:  # published both by the session's actor and by the dispatcher of remote appends
                continue
            is_gap = bool(self._kept) and self._kept[-1].version + 1 != one.version  # another process wrote in between
            erases = one.type in CONTENT_REMOVING_TYPES
            self.erasures += erases
            if is_gap or erases:  # erased content must not be sent from memory
                self._kept.clear()
                self._kept_chars, self.encoded_chunk = 0, None
            self._keep(one)
            self.latest = max(self.latest, one.version)
        self.signal.notify()

    def _keep(self, one: RecordedEvent) -> None:
        """The newest event, whatever its size, and as many of those before it as fit."""
        self._kept.append(one)
        self._kept_chars += _chars(one)
        while len(self._kept) > 1 and (len(self._kept) > KEPT_MAX or self._kept_chars > KEPT_MAX_CHARS):
            self._kept_chars -= _chars(self._kept.popleft())

    def after(self, version: int) -> list[RecordedEvent] | None:
        """The events after `version`; None if some of them are only in the log."""
        if version >= self.latest:
            return []
        # The newest event may be missing here if another node has recorded it.
        if self._kept and self._kept[0].version <= version + 1 and self._kept[-1].version >= self.latest:
            return [one for one in self._kept if one.version > version]
        return None


def _chars(recorded: RecordedEvent) -> int:
    """Length of the event's text: a message's, or a piece of a reply's."""
    event = recorded.event
    parts = getattr(event, "parts", ())
    return len(getattr(event, "content", "")) + len(getattr(event, "text", "")) + (count_chars(parts) if parts else 0)


class KeyHolder(Protocol):
    """Is told which keys have readers: `hold` comes before the first one, `release` after the last."""

    def hold(self, key: str, /) -> None: ...

    def release(self, key: str, /) -> None: ...


class NoKeyHolder:
    """A KeyHolder where nobody needs to know."""

    def hold(self, key: str, /) -> None: ...

    def release(self, key: str, /) -> None: ...


class ChannelRegistry:
    """The channels of the sessions that have readers, by session. A session without readers costs no memory.

    `streams` is told of sessions with readers, `lists` of lists. `on_published` is called with all published events.
    """

    def __init__(self) -> None:
        self.closed = False
        self.streams: KeyHolder = NoKeyHolder()
        self.lists: KeyHolder = NoKeyHolder()
        self.on_published: Callable[[str, Sequence[RecordedEvent]], None] | None = None
        self._channels: dict[str, Channel] = {}

    @property
    def count(self) -> int:
        """Subscribed readers."""
        return sum(channel.readers for channel in self._channels.values())

    def open(self, session_id: str) -> Channel:
        """The session's channel. Enter it immediately, and keep it entered as long as it is read.

        Read the log only after this call: then no event is missed in between.
        """
        channel = self._channels.get(session_id)
        if channel is None:
            channel = self._channels[session_id] = Channel(partial(self._close, session_id, self.streams))
            self.streams.hold(session_id)
        return channel

    def open_list(self, key: str) -> Channel:
        """As `open`, for readers of something else than one session."""
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(partial(self._close, key, self.lists))
            self.lists.hold(key)
        return channel

    def _close(self, key: str, holder: KeyHolder) -> None:
        del self._channels[key]
        holder.release(key)

    def keys(self) -> list[str]:
        """What has readers now."""
        return list(self._channels)

    def find(self, session_id: str) -> Channel | None:
        """The session's channel; None if it has no readers."""
        return self._channels.get(session_id)

    def publish(self, session_id: str, recorded: Sequence[RecordedEvent]) -> None:
        """These events of the session are on disk."""
        channel = self._channels.get(session_id)
        if channel is not None and recorded:
            channel.add(recorded)
        if self.on_published is not None:
            self.on_published(session_id, recorded)

    def close(self) -> None:
        """Graceful shutdown: wake all readers; they send what they still have and end."""
        self.closed = True
        for channel in self._channels.values():
            channel.signal.notify()
