"""Channels: the newest events of a session, once for all who follow it."""

import asyncio

from chatbot.sessions.feeds.channels import KEPT_MAX, KEPT_MAX_CHARS, ChannelRegistry, Signal, wait_any
from events.catalogue import Event, SessionAccessed, SessionDeleted
from events.record import RecordedEvent
from tests.support.log.memory_log import MemoryLog
from tests.support.log.sample_events import posted as said


def recorded(count: int, *, log: MemoryLog | None = None) -> list[RecordedEvent]:
    events: list[Event] = [SessionAccessed()] * count
    return (log or MemoryLog()).record("s", *events)


def versions(found: list[RecordedEvent] | None) -> list[int] | None:
    return None if found is None else [one.version for one in found]


async def test_any_of_several_bells_wakes_and_leaves_nothing_behind() -> None:
    one, other = Signal(), Signal()
    waiting = asyncio.create_task(wait_any(one, other))
    await asyncio.sleep(0)
    other.notify()
    other.notify()
    await waiting
    assert not one.listeners
    assert not other.listeners


async def test_who_stops_waiting_is_forgotten() -> None:
    signal = Signal()
    waiting = asyncio.create_task(wait_any(signal))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert not signal.listeners


def test_a_channel_hands_out_what_comes_after_a_version() -> None:
    feeds = ChannelRegistry()
    with feeds.open("s") as channel:
        feeds.publish("s", recorded(5))
        assert versions(channel.after(3)) == [4, 5]
        assert versions(channel.after(5)) == []
        assert versions(channel.after(9)) == []


def test_who_lags_behind_what_is_kept_is_sent_to_the_log() -> None:
    feeds = ChannelRegistry()
    with feeds.open("s") as channel:
        feeds.publish("s", recorded(KEPT_MAX + 2))
        assert channel.after(1) is None
        assert channel.after(2) is not None


def test_long_texts_are_kept_up_to_their_bound_and_the_newest_always() -> None:
    log, feeds = MemoryLog(), ChannelRegistry()
    half = "x" * (KEPT_MAX_CHARS // 2)
    with feeds.open("s") as channel:
        feeds.publish("s", log.record("s", *(said(half) for _ in range(3))))
        assert versions(channel.after(1)) == [2, 3]
        assert channel.after(0) is None
        feeds.publish("s", log.record("s", said(half * 3)))
        assert versions(channel.after(3)) == [4]
        assert channel.after(2) is None
        feeds.publish("s", log.record("s", SessionAccessed(), SessionDeleted("test"), said("short")))
        assert versions(channel.after(5)) == [6, 7], "what was erased is not kept, and takes no room"


def test_what_was_recorded_before_the_channel_is_in_the_log_only() -> None:
    feeds = ChannelRegistry()
    with feeds.open("s") as channel:
        channel.advance_to(4)
        assert channel.after(3) is None
        assert channel.after(4) == []


def test_a_gap_that_another_process_left_is_read_from_the_log() -> None:
    feeds, log = ChannelRegistry(), MemoryLog()
    with feeds.open("s") as channel:
        feeds.publish("s", recorded(2, log=log))
        recorded(1, log=log)
        feeds.publish("s", recorded(1, log=log))
        assert channel.after(2) is None
        assert versions(channel.after(3)) == [4]


def test_what_is_erased_is_not_handed_out_from_memory() -> None:
    feeds, log = ChannelRegistry(), MemoryLog()
    with feeds.open("s") as channel:
        feeds.publish("s", recorded(3, log=log))
        feeds.publish("s", log.record("s", SessionDeleted("request")))
        assert channel.after(1) is None
        assert versions(channel.after(3)) == [4]


def test_a_session_without_readers_costs_nothing() -> None:
    feeds = ChannelRegistry()
    feeds.publish("s", recorded(1))
    with feeds.open("s") as first, feeds.open("s") as second:
        assert first is second
        assert feeds.count == 2
    assert feeds.count == 0
    assert not feeds._channels


async def test_closing_wakes_every_reader() -> None:
    feeds = ChannelRegistry()
    with feeds.open("s") as one, feeds.open("t") as other:
        waiting = [asyncio.create_task(wait_any(channel.signal)) for channel in (one, other)]
        await asyncio.sleep(0)
        feeds.close()
        async with asyncio.timeout(1):
            await asyncio.gather(*waiting)
    assert feeds.closed


def test_news_that_only_the_log_has_yet_are_read_there() -> None:
    """Another node has recorded version 3: a read has seen that, and its event has not come here."""
    feeds, events = ChannelRegistry(), recorded(3)
    with feeds.open("s") as channel:
        feeds.publish("s", events[:2])
        channel.advance_to(3)
        assert channel.after(2) is None
        feeds.publish("s", events[2:])
        assert versions(channel.after(2)) == [3]


def test_what_is_told_twice_is_kept_once() -> None:
    feeds, events = ChannelRegistry(), recorded(3)
    with feeds.open("s") as channel:
        feeds.publish("s", events[:2])
        feeds.publish("s", events)
        assert versions(channel.after(0)) == [1, 2, 3]
