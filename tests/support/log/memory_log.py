"""An event log in memory, as much of the port as a follower needs. Erases like the real one."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import cast

from msgspec.structs import replace

from events.catalogue import AnyEvent, Event
from events.codec import encode, event_type
from events.errors import LogUnavailable
from events.log import AppendListener, Snapshot
from events.media import MediaStore, NoMedia
from events.record import Envelope, EventHeader, Head, Metadata, RecordedEvent, StoredRow, StreamVersion
from events.subscriptions import AppendListeners, is_broadcast

START_US = 1_735_689_600_000_000  # 2025-01-01
STEP_US = 1_000_000


class MemoryLog:
    """Records at once; `record` and `erase_now` are for tests that need no waiting. A second passes per event."""

    def __init__(self, seed: bytes = b"") -> None:
        self.events: list[RecordedEvent] = []
        self.now_us = START_US
        self.reads = 0
        self.fails_with: Exception | None = None
        self._digests = [hashlib.sha256(seed).digest()]
        self._moved = asyncio.Event()
        self._head_listeners: dict[Callable[[], None], int] = {}
        self.media: MediaStore = NoMedia()
        self.held: set[str] = set()
        self.listeners = AppendListeners()

    async def admits(self, versions: Mapping[str, int]) -> bool:
        return True

    def record(self, stream_id: str, *events: Event) -> list[RecordedEvent]:
        """Append `events` to the stream, whatever version it has."""
        version = sum(recorded.stream_id == stream_id for recorded in self.events)
        return [self._add(stream_id, version + offset, event) for offset, event in enumerate(events, 1)]

    def erase_now(self, stream_id: str, event: Event) -> RecordedEvent:
        """Append `event` and erase the content of everything before it in the stream."""
        self.events = [replace(e, event=None) if e.stream_id == stream_id else e for e in self.events]
        return self.record(stream_id, event)[0]

    def _add(self, stream_id: str, version: int, event: Event) -> RecordedEvent:
        self.now_us += STEP_US
        position, kind = len(self.events) + 1, event_type(event)
        recorded = RecordedEvent(position, stream_id, version, kind, 1, self.now_us, Metadata(), cast(AnyEvent, event))
        self.events.append(recorded)
        row = f"{position} {stream_id} {version} {kind}".encode()
        self._digests.append(hashlib.sha256(self._digests[-1] + row).digest())
        self._moved.set()
        self._moved = asyncio.Event()
        for listener, watched in self._head_listeners.items():
            if position > watched:
                listener()
        if stream_id in self.held or is_broadcast(stream_id, kind):
            self.listeners.on_appended([EventHeader(position, stream_id, version, kind)])
        return recorded

    @property
    def erasure_pending(self) -> bool:
        return False

    @property
    def oldest_append_s(self) -> float:
        return 0.0

    @property
    def damage(self) -> str | None:
        return None

    async def check_writable(self) -> None: ...

    async def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        return tuple(self.record(stream_id, *events))

    async def erase(
        self,
        stream_id: str,
        expected_version: int,
        event: Event,
        metadata: Metadata,
        *,
        unchanged: StreamVersion | None = None,
    ) -> tuple[RecordedEvent, ...]:
        return (self.erase_now(stream_id, event),)

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        found = [e for e in self.events if e.stream_id == stream_id and e.version > after]
        return (found[::-1] if backwards else found)[:limit]

    async def read_all(self, *, after: int = 0, limit: int) -> list[RecordedEvent]:
        await asyncio.sleep(0)
        if self.fails_with is not None:
            raise self.fails_with
        found = self.events[after : after + limit]
        self.reads += len(found)
        return found

    async def event_headers(self, *, after: int = 0, limit: int) -> list[EventHeader]:
        return [EventHeader(e.position, e.stream_id, e.version, e.type) for e in self.events[after : after + limit]]

    async def envelopes(self, *, after: int = 0, limit: int) -> list[Envelope]:
        return [
            Envelope(e.position, e.stream_id, e.version, e.type, e.recorded_at_us, "{}")
            for e in self.events[after : after + limit]
        ]

    async def read_at(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        return {p: self.events[p - 1] for p in positions if 0 < p <= len(self.events)}

    async def sizes(self, positions: Sequence[int]) -> dict[int, int]:
        events = await self.read_at(positions)
        return {p: len(encode(one.event)) if one.event else 0 for p, one in events.items()}

    async def rows(self, *, after: int = 0, limit: int, bytes_max: int | None = None) -> list[StoredRow]:
        return [
            StoredRow(
                position=e.position,
                stream_id=e.stream_id,
                version=e.version,
                type=e.type,
                schema_version=1,
                recorded_at_us=e.recorded_at_us,
                metadata="{}",
                data=None,
                salt=None,
                commitment=b"",
                digest=self._digests[e.position],
            )
            for e in self.events[after : after + limit]
        ]

    async def rows_at(self, positions: Sequence[int]) -> dict[int, StoredRow]:
        return {row.position: row for row in await self.rows(limit=len(self.events) or 1) if row.position in positions}

    async def stream_rows(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None
    ) -> list[StoredRow]:
        rows = await self.rows(limit=len(self.events) or 1)
        return [row for row in rows if row.stream_id == stream_id and row.version > after][:limit]

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        raise NotImplementedError

    async def finish_erasure(self, stream_id: str, version: int) -> None:
        raise NotImplementedError

    def head(self) -> Head:
        return Head(len(self.events), self._digests[-1] if self.events else bytes(32))

    async def latest(self) -> Head:
        return self.head()

    @property
    def is_shared(self) -> bool:
        return False

    async def wait(self, position: int) -> Head:
        while len(self.events) <= position:
            await self._moved.wait()
        return self.head()

    def watch_head(self, position: int, listener: Callable[[], None]) -> None:
        self._head_listeners[listener] = position

    def unwatch_head(self, listener: Callable[[], None]) -> None:
        self._head_listeners.pop(listener, None)

    def hold(self, stream_id: str) -> None:
        self.held.add(stream_id)
        self.listeners.on_held(stream_id, sum(one.stream_id == stream_id for one in self.events))

    def release(self, stream_id: str) -> None:
        self.held.discard(stream_id)

    def listen(self, listener: AppendListener) -> None:
        self.listeners.add(listener)

    async def close(self) -> None:
        self.fails_with = LogUnavailable("closed")
