"""What other processes append reaches those that need it; no failure of the log makes the dispatcher end or spin."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import structlog

from chatbot.nodes import append_dispatcher as module
from chatbot.nodes import held_streams
from chatbot.nodes.append_dispatcher import AppendDispatcher
from chatbot.nodes.held_streams import REPLY_HELD_AFTER_S, HeldStreams
from chatbot.nodes.orphan_reaper import OrphanReaper
from chatbot.nodes.reply_mirrors import ReplyMirrors
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.digest_cache import DigestCache
from chatbot.sessions.feeds.channels import ChannelRegistry
from chatbot.sessions.feeds.text_cache import TextCache
from chatbot.sessions.ports import Ports
from events.catalogue import ContentErased, MetadataChanged, SessionCreated
from events.errors import LogUnavailable, UnknownEvent
from events.record import RecordedEvent
from tests.support.log.memory_log import MemoryLog


class LosingLog(MemoryLog):
    """Has told of more than it has, as a standby that took over without all of it."""

    lost = 0
    asked = 0

    def hold(self, stream_id: str) -> None:
        super().hold(stream_id)
        self.listeners.on_held(stream_id, len(self.events) + self.lost)

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().read(stream_id, after=after, limit=limit)


class Forgetful(MemoryLog):
    """Does not find, the first time, what it has just told of."""

    asked = 0

    async def read_at(self, positions: Any) -> dict[int, RecordedEvent]:
        self.asked += 1
        return {} if self.asked == 1 else await super().read_at(positions)


def following(log: MemoryLog, feeds: ChannelRegistry, digests: DigestCache | None = None) -> asyncio.Task[None]:
    """A dispatcher that runs. It listens from the next iteration of the event loop on."""
    feeds.streams = HeldStreams(log)
    logger = structlog.get_logger("test")
    ports = SimpleNamespace(
        log=log, feeds=feeds, texts=TextCache(log, 1000), digests=digests or DigestCache(), logger=logger
    )
    nobody = SimpleNamespace(
        on_remote_append=lambda *_: None, has=lambda _: False, version=lambda _: None, running_reply=lambda _: None
    )
    dispatcher = AppendDispatcher(
        cast(Ports, ports), cast(Supervisor, nobody), cast(ReplyMirrors, nobody), cast(OrphanReaper, nobody)
    )
    return asyncio.create_task(dispatcher.run())


async def test_a_log_that_has_less_than_it_told_is_not_asked_again_and_again() -> None:
    log = LosingLog()
    log.record("s", SessionCreated(None, {}, 60))
    log.lost, feeds = 5, ChannelRegistry()
    running = following(log, feeds)
    await asyncio.sleep(0)
    with feeds.open("s") as channel:
        channel.advance_to(1)
        await asyncio.sleep(0.05)
    running.cancel()
    assert 1 <= log.asked <= 2


async def test_the_dispatcher_outlives_an_event_that_is_not_where_the_log_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    log, feeds = Forgetful(), ChannelRegistry()
    log.record("s", SessionCreated(None, {}, 60))
    running = following(log, feeds)
    await asyncio.sleep(0)
    with feeds.open("s") as channel:
        channel.advance_to(1)
        await asyncio.sleep(0.01)
        log.record("s", MetadataChanged({}, "a"))
        async with asyncio.timeout(1):
            while channel.latest < 2:
                await asyncio.sleep(0.005)
        running.cancel()


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
    running = following(log, feeds)
    await asyncio.sleep(0)
    with feeds.open("a") as odd, feeds.open("b") as other:
        odd.advance_to(1)
        other.advance_to(1)
        await asyncio.sleep(0.01)
        log.unknown = log.record("a", MetadataChanged({}, "newer"))[0].position
        log.record("b", MetadataChanged({}, "known"))
        async with asyncio.timeout(10):
            while other.latest < 2:
                await asyncio.sleep(0.005)
        running.cancel()
        assert [one.version for one in other.after(1) or ()] == [2]
        assert (odd.latest, odd.after(1)) == (2, None), "its readers are to look into the log"


class Faulty(MemoryLog):
    """Cannot read the stream `a`. Reports no event, only how far streams are, as after many events."""

    fault: Exception

    async def read(
        self, stream_id: str, *, after: int = 0, limit: int, bytes_max: int | None = None, backwards: bool = False
    ) -> list[RecordedEvent]:
        if stream_id == "a":
            raise self.fault
        return await super().read(stream_id, after=after, limit=limit)


@pytest.mark.parametrize("fault", [msgspec.DecodeError("damaged"), LogUnavailable("not now")])
async def test_a_stream_that_cannot_be_read_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    log, feeds = Faulty(), ChannelRegistry()
    log.fault = fault
    running = following(log, feeds)
    await asyncio.sleep(0)
    with feeds.open("a") as faulty, feeds.open("b") as other:
        faulty.advance_to(1)
        other.advance_to(1)
        log.held.clear()
        for stream_id in ("a", "b"):
            log.record(stream_id, SessionCreated(None, {}, 60), MetadataChanged({}, "x"))
            log.listeners.on_held(stream_id, 2)
        async with asyncio.timeout(10):
            while other.latest < 2 or (faulty.latest < 2 and not isinstance(fault, LogUnavailable)):
                await asyncio.sleep(0.005)
        running.cancel()


async def test_readers_hear_of_an_erasure_also_where_its_version_is_known_already() -> None:
    """Another reader has come meanwhile, and with it the version: caches must drop erased events."""
    log, feeds, digests = MemoryLog(), ChannelRegistry(), DigestCache()
    log.record("s", SessionCreated(None, {}, 60))
    running = following(log, feeds, digests)
    await asyncio.sleep(0)
    with feeds.open("s") as channel:
        channel.add(log.record("s", MetadataChanged({}, "words of a person")))
        await asyncio.sleep(0.01)
        erased = log.erase_now("s", ContentErased("asked", 2, 60))
        channel.advance_to(erased.version)
        await asyncio.sleep(0.01)
        running.cancel()
        assert channel.erasures == 1
        assert digests.drops == 1
        assert [one.version for one in channel.after(2) or ()] == [erased.version], "what was erased is kept nowhere"
        assert channel.after(1) is None


class LateLog(MemoryLog):
    """A hold is in force only later."""

    def hold(self, stream_id: str) -> None: ...

    def confirm(self, stream_id: str) -> None:
        super().hold(stream_id)


async def test_readers_get_what_was_appended_before_the_hold_was_in_force() -> None:
    log, feeds = LateLog(), ChannelRegistry()
    log.record("s", SessionCreated(None, {}, 60))
    running = following(log, feeds)
    await asyncio.sleep(0)
    with feeds.open("s") as channel:
        channel.advance_to(1)
        log.record("s", MetadataChanged({}, "a"), MetadataChanged({}, "b"))
        log.confirm("s")
        log.record("s", MetadataChanged({}, "c"))
        async with asyncio.timeout(10):
            while channel.latest < 4:
                await asyncio.sleep(0.005)
        assert [one.version for one in channel.after(1) or ()] == [2, 3, 4]
    running.cancel()


async def test_of_more_reports_than_are_kept_readers_miss_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING_MAX", 3)
    log, feeds = MemoryLog(), ChannelRegistry()
    log.record("s", SessionCreated(None, {}, 60))
    running = following(log, feeds)
    await asyncio.sleep(0)
    with feeds.open("s") as channel:
        channel.advance_to(1)
        await asyncio.sleep(0.01)
        log.record("s", *[MetadataChanged({}, str(number)) for number in range(20)])
        async with asyncio.timeout(10):
            while channel.latest < 21:
                await asyncio.sleep(0.005)
        assert [one.version for one in channel.after(1) or ()] == list(range(2, 22))
    running.cancel()


def test_a_stream_is_held_from_the_first_to_the_last_that_needs_it() -> None:
    log = MemoryLog()
    held = HeldStreams(log)
    held.hold("s")
    held.hold("s")
    held.release("s")
    assert log.held == {"s"}
    held.release("s")
    assert not log.held


def test_a_sessions_replies_hold_it_only_if_they_wait_for_another_process_or_run_for_long() -> None:
    log, now_s = MemoryLog(), [0.0]
    held = HeldStreams(log, lambda: now_s[0])
    held.begin_replies("short", is_waiting=False)
    held.begin_replies("waiting", is_waiting=False)
    held.begin_replies("waiting", is_waiting=True)
    assert log.held == {"waiting"}
    held.end_replies("short")
    held.begin_replies("long", is_waiting=False)
    now_s[0] += REPLY_HELD_AFTER_S
    held.hold_long_replies()
    assert log.held == {"waiting", "long"}
    for session_id in ("waiting", "long", "long", "unknown"):
        held.end_replies(session_id)
    assert not log.held


async def test_replies_that_run_for_long_are_looked_for_whenever_some_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_streams, "CHECK_S", 0.0)
    log, now_s = MemoryLog(), [0.0]
    held = HeldStreams(log, lambda: now_s[0])
    running = asyncio.create_task(held.run())
    for _ in range(2):  # once more after a time without replies
        await asyncio.sleep(0.01)
        held.begin_replies("long", is_waiting=False)
        now_s[0] += REPLY_HELD_AFTER_S
        async with asyncio.timeout(20):
            while not log.held:
                await asyncio.sleep(0)
        held.end_replies("long")
        assert not log.held
    running.cancel()
