"""Dispatches what other processes append: to actors, mirrors and readers of this node, caches and the orphan reaper."""

import asyncio
from collections.abc import Sequence

import msgspec

from chatbot.nodes.orphan_reaper import OrphanReaper
from chatbot.nodes.reply_mirrors import ReplyMirrors
from chatbot.sessions.ports import LiveSessions, Ports
from events.catalogue import CONTENT_REMOVING_TYPES
from events.errors import LogDamaged, LogError, LogUnavailable, UnknownEvent
from events.paging import read_pages
from events.record import EventHeader, RecordedEvent

PENDING_MAX = 10_000  # headers whose events are to be read; beyond, their streams are read from where they are known
PAGE = 64  # events of one stream read at once
NEWEST = 16  # events read of a stream of which no version is known here: the start of a reply may be among them
READ_INTERVAL_S = 0.003  # between two reads: no delay after a pause, and under load many commits in one read
RETRY_S = 0.5  # after the log could not be read
UNREADABLE = UnknownEvent, LogDamaged, msgspec.DecodeError, UnicodeError  # an event that no retry makes readable


class AppendDispatcher:
    """An AppendListener. Reads contents only for sessions with readers on this node, once for all of them."""

    def __init__(
        self, ports: Ports, supervisor: LiveSessions, mirrors: ReplyMirrors, orphan_reaper: OrphanReaper
    ) -> None:
        self._ports = ports
        self._supervisor = supervisor
        self._mirrors = mirrors
        self._orphan_reaper = orphan_reaper
        self._pending: list[EventHeader] = []  # whose events are to be read
        self._behind: dict[str, int] = {}  # streams that are to be read up to a version
        self._wake = asyncio.Event()

    def on_appended(self, headers: Sequence[EventHeader]) -> None:
        """As AppendListener.on_appended."""
        if any(one.type in CONTENT_REMOVING_TYPES for one in headers):
            self._ports.texts.drop()
            self._ports.digests.drop()
        for one in headers:
            self._supervisor.on_remote_append(one.stream_id, one.version)
            self._orphan_reaper.on_remote_append(one)
        self._add([one for one in headers if self._is_read(one)])

    def on_held(self, stream_id: str, version: int) -> None:
        """As AppendListener.on_held."""
        self._supervisor.on_remote_append(stream_id, version)
        if self._ports.feeds.find(stream_id) is not None or self._mirrors.has(stream_id):
            self._behind[stream_id] = max(version, self._behind.get(stream_id, 0))
            self._wake.set()

    def on_published(self, session_id: str, recorded: Sequence[RecordedEvent]) -> None:
        """Events that an actor of this process has recorded or read: mirrors need them, too, in their order."""
        if self._mirrors.has(session_id):
            self._add([EventHeader(one.position, one.stream_id, one.version, one.type) for one in recorded])

    async def run(self) -> None:
        """Until cancelled."""
        self._ports.log.listen(self)
        self._ports.feeds.on_published = self.on_published
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._read_pending()
                await self._read_behind()
                await asyncio.sleep(READ_INTERVAL_S)
            except LogError as error:
                self._ports.logger.warning("tail.waits", reason=str(error))
                await self._retry()
            except Exception as error:  # this task must not end, or readers would wait without end: it retries
                self._ports.logger.exception("tail.failed", error=type(error).__name__)
                await self._retry()

    async def _retry(self) -> None:
        await asyncio.sleep(RETRY_S)
        self._wake.set()

    def _add(self, wanted: Sequence[EventHeader]) -> None:
        """Have the events of these headers read."""
        if not wanted:
            return
        self._pending += wanted
        if len(self._pending) > PENDING_MAX:
            self._fall_behind(self._pending)
            self._pending = []
        self._wake.set()

    def _fall_behind(self, headers: Sequence[EventHeader]) -> None:
        for one in headers:
            self._behind[one.stream_id] = max(one.version, self._behind.get(one.stream_id, 0))

    async def _read_pending(self) -> None:
        """Raises LogUnavailable, also if the log does not have the events that it announced: retry after a pause."""
        pending, self._pending = self._pending, []
        wanted = [one for one in pending if self._is_read(one)]
        if not wanted:
            return
        try:
            found = await self._read([one.position for one in wanted])
        except BaseException:
            self._fall_behind(wanted)
            raise
        for one in wanted:
            known = self._mirrors.version(one.stream_id)
            if one.stream_id in self._behind or (known is not None and known + 1 < one.version):
                self._fall_behind([one])
            elif one.position in found:
                self._deliver(found[one.position])
            else:
                self._advance(one.stream_id, one.version)

    async def _read_behind(self) -> None:
        """Raises as _read_pending; a stream is then still behind, after the others: it must not hold them up."""
        for stream_id in list(self._behind):
            version = self._behind.pop(stream_id)
            try:
                await self._read_stream(stream_id, version)
            except UNREADABLE:
                self._advance(stream_id, version)
            except BaseException:
                self._behind[stream_id] = max(version, self._behind.pop(stream_id, 0))
                raise

    async def _read_stream(self, stream_id: str, version: int) -> None:
        """Deliver what readers and mirrors of the stream lack, up to `version` at least. Raises LogError."""
        channel = self._ports.feeds.find(stream_id)
        of_readers, of_mirrors = None if channel is None else channel.latest, self._mirrors.version(stream_id)
        known = [one for one in (of_readers, of_mirrors) if one is not None]
        if not known:
            return
        after = min(known) or max(0, version - NEWEST)
        async for page in read_pages(self._ports.log, stream_id, after=after, page_max=PAGE):
            for recorded in page:
                self._deliver(recorded)
                after = recorded.version
        if after < version:
            raise LogUnavailable("the log announced events that it does not have")

    def _deliver(self, recorded: RecordedEvent) -> None:
        channel = self._ports.feeds.find(recorded.stream_id)
        if channel is not None and (recorded.version > channel.latest or recorded.type in CONTENT_REMOVING_TYPES):
            channel.add((recorded,))
        self._mirrors.on_remote_append(recorded)

    def _advance(self, stream_id: str, version: int) -> None:
        """Readers find the event in the log themselves, and learn that this node cannot read it."""
        if channel := self._ports.feeds.find(stream_id):
            channel.advance_to(version)

    async def _read(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """The events, except those that this program cannot read: they must not block other sessions."""
        found: dict[int, RecordedEvent] = {}
        unreadable = 0
        try:
            found = await self._ports.log.read_at(positions)
        except UNREADABLE:
            for position in positions:
                try:
                    found |= await self._ports.log.read_at([position])
                except UNREADABLE:
                    unreadable += 1
        if len(found) + unreadable < len(set(positions)):
            raise LogUnavailable("the log announced events that it does not have")
        return found

    def _is_read(self, one: EventHeader) -> bool:
        """Whether a mirror needs it, or a reader of this node that does not have it from an actor yet."""
        if self._mirrors.has(one.stream_id):
            return True
        channel = self._ports.feeds.find(one.stream_id)
        if channel is None:
            return False
        begins_elsewhere = one.type == "reply_started" and self._supervisor.running_reply(one.stream_id) is None
        return one.version > channel.latest or begins_elsewhere or one.type in CONTENT_REMOVING_TYPES
