"""The log tailer: a subscription to events that other nodes append, for readers, mirrors and actors of this node."""

import asyncio
from collections.abc import Sequence

from chatbot.nodes.orphan_reaper import OrphanReaper
from chatbot.nodes.reply_mirrors import ReplyMirrors
from chatbot.sessions.ports import LiveSessions, Ports
from events.catalogue import CONTENT_REMOVING_TYPES
from events.errors import LogError, LogUnavailable, UnknownEvent
from events.record import EventHeader, RecordedEvent

PAGE = 1_000  # headers read at once
READ_INTERVAL_S = 0.003  # between two reads: no delay after a pause, and under load many commits in one read
RETRY_S = 0.5  # after the log could not be read


class LogTailer:
    """Reads event headers; reads contents only for sessions with readers on this node, once for all of them."""

    def __init__(
        self, ports: Ports, supervisor: LiveSessions, mirrors: ReplyMirrors, orphan_reaper: OrphanReaper
    ) -> None:
        self._ports = ports
        self._supervisor = supervisor
        self._mirrors = mirrors
        self._orphan_reaper = orphan_reaper

    async def run(self) -> None:
        """Until cancelled."""
        position = self._ports.log.head().position
        while True:
            try:
                await self._ports.log.wait(position)
                page = await self._ports.log.event_headers(after=position, limit=PAGE)
                await self._dispatch(page)
                position = page[-1].position
                await asyncio.sleep(READ_INTERVAL_S)
            except LogError as error:
                self._ports.logger.warning("tail.waits", reason=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # the tailer must not end, or readers would wait without end: it retries
                self._ports.logger.exception("tail.failed", error=type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _dispatch(self, page: Sequence[EventHeader]) -> None:
        """Raises LogUnavailable, also if the log does not have the events that it announced: retry after a pause."""
        if not page:
            raise LogUnavailable("the log announced events that it does not have")
        if any(one.type in CONTENT_REMOVING_TYPES for one in page):
            self._ports.texts.drop()
            self._ports.digests.drop()
        for one in page:
            self._supervisor.on_remote_append(one.stream_id, one.version)
            self._orphan_reaper.on_remote_append(one)
        wanted = [one for one in page if self._is_read(one)]
        if not wanted:
            return
        found = await self._read([one.position for one in wanted])
        for one in wanted:
            recorded = found.get(one.position)
            if (
                recorded is None
            ):  # readers find it in the log themselves, and learn that this node does not know its type
                if channel := self._ports.feeds.find(one.stream_id):
                    channel.advance_to(one.version)
                continue
            self._ports.feeds.publish(recorded.stream_id, (recorded,))
            self._mirrors.on_remote_append(recorded)

    async def _read(self, positions: Sequence[int]) -> dict[int, RecordedEvent]:
        """The events, except those of types that this program does not know: they must not block other sessions."""
        found: dict[int, RecordedEvent] = {}
        unknown = 0
        try:
            found = await self._ports.log.read_at(positions)
        except UnknownEvent:
            for position in positions:
                try:
                    found |= await self._ports.log.read_at([position])
                except UnknownEvent:
                    unknown += 1
        if len(found) + unknown < len(positions):
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
