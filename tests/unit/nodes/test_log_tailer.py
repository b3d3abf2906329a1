"""The tail of a shared log: what it tells, and that nothing which the log does to it makes it die or spin."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from chatbot.nodes import log_tailer as module
from chatbot.nodes.log_tailer import LogTailer
from chatbot.nodes.orphan_reaper import OrphanReaper
from chatbot.nodes.reply_mirrors import ReplyMirrors
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.digest_cache import DigestCache
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.feeds.text_cache import TextCache
from chatbot.sessions.ports import Ports
from events.catalogue import ContentErased, MetadataChanged, SessionCreated
from events.errors import UnknownEvent
from events.record import EventHeader, Head, RecordedEvent
from tests.support.log.memory_log import MemoryLog


class LosingLog(MemoryLog):
    """Has told of more than it has, as a standby that took over without all of it."""

    lost = 0
    asked = 0

    async def wait(self, position: int) -> Head:
        if self.head().position + self.lost > position:
            return self.head()
        return await super().wait(position)

    async def event_headers(self, *, after: int = 0, limit: int) -> list[EventHeader]:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().event_headers(after=after, limit=limit)


class Forgetful(MemoryLog):
    """Does not find, the first time, what it has just told of."""

    asked = 0

    async def read_at(self, positions: Any) -> dict[int, RecordedEvent]:
        self.asked += 1
        return {} if self.asked == 1 else await super().read_at(positions)


def tail_of(log: MemoryLog, feeds: ChannelRegistry, digests: DigestCache | None = None) -> LogTailer:
    logger = structlog.get_logger("test")
    ports = SimpleNamespace(
        log=log, feeds=feeds, texts=TextCache(log, 1000), digests=digests or DigestCache(), logger=logger
    )
    nobody = SimpleNamespace(
        on_remote_append=lambda *_: None, has=lambda _: False, running_reply=lambda _: None, tell=lambda *_: None
    )
    return LogTailer(
        cast(Ports, ports), cast(Supervisor, nobody), cast(ReplyMirrors, nobody), cast(OrphanReaper, nobody)
    )


async def test_a_log_that_has_less_than_it_told_is_not_asked_again_and_again() -> None:
    log = LosingLog()
    log.record("s", SessionCreated(None, {}, 60))
    log.lost = 5
    following = asyncio.create_task(tail_of(log, ChannelRegistry()).run())
    await asyncio.sleep(0.05)
    following.cancel()
    assert log.asked <= 2


async def test_the_tail_outlives_an_event_that_is_not_where_the_log_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    log, feeds = Forgetful(), ChannelRegistry()
    log.record("s", SessionCreated(None, {}, 60))
    with feeds.open("s") as channel:
        channel.advance_to(1)
        following = asyncio.create_task(tail_of(log, feeds).run())
        await asyncio.sleep(0)
        log.record("s", MetadataChanged({}, "a"))
        async with asyncio.timeout(1):
            while channel.latest < 2:
                await asyncio.sleep(0.005)
        following.cancel()


class Newer(MemoryLog):
    """Holds an event of a newer program."""

    unknown = 0

    async def read_at(self, positions: Any) -> dict[int, RecordedEvent]:
        if self.unknown in positions:
            raise UnknownEvent("mood_noted", 1)
        return await super().read_at(positions)


async def test_an_event_that_is_not_known_holds_up_no_reader_of_another_session() -> None:
    log, feeds = Newer(), ChannelRegistry()
    log.record("a", SessionCreated(None, {}, 60))
    log.record("b", SessionCreated(None, {}, 60))
    with feeds.open("a") as odd, feeds.open("b") as other:
        odd.advance_to(1)
        other.advance_to(1)
        following = asyncio.create_task(tail_of(log, feeds).run())
        await asyncio.sleep(0)
        log.unknown = log.record("a", MetadataChanged({}, "newer"))[0].position
        log.record("b", MetadataChanged({}, "known"))
        async with asyncio.timeout(10):
            while other.latest < 2:
                await asyncio.sleep(0.005)
        following.cancel()
        assert [one.version for one in other.after(1) or ()] == [2]
        assert (odd.latest, odd.after(1)) == (2, None), "its readers are to look into the log"


async def test_readers_hear_of_an_erasure_also_where_its_version_is_known_already() -> None:
    """Another reader has come meanwhile, and with it the version: caches must drop erased events."""
    log, feeds, digests = MemoryLog(), ChannelRegistry(), DigestCache()
    log.record("s", SessionCreated(None, {}, 60))
    with feeds.open("s") as channel:
        channel.add(log.record("s", MetadataChanged({}, "words of a person")))
        following = asyncio.create_task(tail_of(log, feeds, digests).run())
        await asyncio.sleep(0)
        erased = log.erase_now("s", ContentErased("asked", 2, 60))
        channel.advance_to(erased.version)
        await asyncio.sleep(0.01)
        following.cancel()
        assert channel.erasures == 1
        assert digests.drops == 1
        assert [one.version for one in channel.after(2) or ()] == [erased.version], "what was erased is kept nowhere"
        assert channel.after(1) is None
