"""Memory for the files of requests: bounded, in order of arrival, and given back whatever happens."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from chatbot.sessions.media_memory import MediaMemory


class Taker:
    """Holds memory until it is told to leave."""

    def __init__(self, memory: MediaMemory, size: int) -> None:
        self.has_it = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(memory, size))

    async def _hold(self, memory: MediaMemory, size: int) -> None:
        async with memory.reserved(size):
            self.has_it = True
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_comes_first_gets_it_first() -> None:
    memory = MediaMemory(10)
    takers = [Taker(memory, size) for size in (6, 6, 1)]
    await settle()
    assert [one.has_it for one in takers] == [True, False, False], "the small one does not overtake"
    await takers[0].leave()
    assert [one.has_it for one in takers] == [True, True, True]
    for one in takers[1:]:
        await one.leave()


async def test_more_than_there_is_waits_until_all_is_free() -> None:
    memory = MediaMemory(10)
    small, large, next_one = (Taker(memory, size) for size in (1, 1_000, 1))
    await settle()
    assert (small.has_it, large.has_it, next_one.has_it) == (True, False, False)
    await small.leave()
    assert (large.has_it, next_one.has_it) == (True, False)
    await large.leave()
    assert next_one.has_it
    await next_one.leave()


async def test_a_reply_that_is_cancelled_while_it_waits_makes_way() -> None:
    memory = MediaMemory(10)
    first, cancelled, last = (Taker(memory, size) for size in (6, 6, 4))
    await settle()
    cancelled.task.cancel()
    await settle()
    assert (cancelled.task.cancelled(), last.has_it) == (True, True)
    await first.leave()
    await last.leave()
    async with AsyncExitStack() as stack:
        await asyncio.wait_for(stack.enter_async_context(memory.reserved(10)), 60)


async def test_memory_granted_to_a_reply_that_is_cancelled_at_that_moment_is_not_lost() -> None:
    memory = MediaMemory(10)
    first, second = Taker(memory, 10), Taker(memory, 10)
    await settle()
    first._leave.set()
    await first.task  # grants the memory to the second one, which has not run since
    second.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second.task
    async with AsyncExitStack() as stack:
        await asyncio.wait_for(stack.enter_async_context(memory.reserved(10)), 60)
