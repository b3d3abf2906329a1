"""Waiting for new events in the log."""

import asyncio

import pytest

from events.errors import LogUnavailable
from events.integrity.hash_chain import GENESIS
from events.record import Head
from events.storage.group_commit import HeadNotifier


async def test_a_waiter_cancelled_in_the_very_moment_of_the_commit_harms_nobody() -> None:
    live = HeadNotifier(Head(0, GENESIS))
    gone, stays = asyncio.create_task(live.wait(0)), asyncio.create_task(live.wait(0))
    await asyncio.sleep(0)
    gone.cancel()
    live.advance(Head(1, bytes(32)))
    assert await stays == Head(1, bytes(32))
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_waiter_cancelled_in_the_very_moment_of_the_close_harms_nobody() -> None:
    live = HeadNotifier(Head(0, GENESIS))
    gone, stays = asyncio.create_task(live.wait(0)), asyncio.create_task(live.wait(0))
    await asyncio.sleep(0)
    gone.cancel()
    live.close("the log is closed")
    with pytest.raises(LogUnavailable, match="is closed"):
        await stays
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_what_is_past_is_told_even_after_the_close() -> None:
    live = HeadNotifier(Head(3, GENESIS))
    live.close("the log is closed")
    assert (await live.wait(2)).position == 3


async def test_nobody_who_has_left_is_kept() -> None:
    live = HeadNotifier(Head(0, GENESIS))
    waiters = [asyncio.create_task(live.wait(0)) for _ in range(100)]
    await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert not live._waiters


async def test_a_listener_is_called_at_commits_beyond_its_position() -> None:
    live, called = HeadNotifier(Head(0, GENESIS)), list[int]()
    live.listeners[lambda: called.append(live.current.position)] = 2
    for position in (1, 2, 4, 5):
        live.advance(Head(position, bytes(32)))
    assert called == [4, 5]
