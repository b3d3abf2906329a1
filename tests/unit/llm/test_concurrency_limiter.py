"""The gate: who runs, who waits, who is turned away."""

import asyncio

import pytest

from chatbot.llm.concurrency_limiter import ConcurrencyLimiter
from chatbot.llm.provider import LlmOverloaded


async def test_as_many_run_as_may_and_the_rest_wait() -> None:
    gate = ConcurrencyLimiter(2, 3)
    tickets = [gate.acquire() for _ in range(4)]
    await tickets[0].ready()
    await tickets[1].ready()
    assert (gate.running, gate.waiting) == (2, 2)


async def test_the_expected_wait_follows_the_queue_and_how_long_replies_take() -> None:
    now_s = 0.0
    gate = ConcurrencyLimiter(2, 10, lambda: now_s)
    assert gate.expected_wait_s == 0
    first, second = gate.acquire(), gate.acquire()
    assert gate.expected_wait_s == 0  # no reply has ended yet: nothing is known
    now_s = 8.0
    first.release()
    assert (gate.mean_s, gate.expected_wait_s) == (8.0, 0)
    gate.acquire()
    assert gate.expected_wait_s == 4.0
    waiting = [gate.acquire() for _ in range(3)]
    assert gate.expected_wait_s == 16.0
    second.release()
    await waiting[0].ready()
    now_s = 26.0
    waiting[0].release()
    assert gate.mean_s == 9.0
    waiting[2].release()  # has never run, and says nothing
    assert gate.mean_s == 9.0


async def test_who_finds_the_queue_full_is_refused_at_once() -> None:
    gate = ConcurrencyLimiter(1, 1)
    gate.acquire()
    assert not gate.is_full
    gate.acquire()
    assert gate.is_full
    with pytest.raises(LlmOverloaded):
        gate.acquire()
    assert (gate.running, gate.waiting) == (1, 1)


async def test_turns_come_in_the_order_of_entering() -> None:
    gate = ConcurrencyLimiter(1, 10)
    order: list[int] = []

    async def reply(number: int) -> None:
        ticket = gate.acquire()
        await ticket.ready()
        order.append(number)
        await asyncio.sleep(0)
        ticket.release()

    await asyncio.gather(*(reply(number) for number in range(8)))
    assert order == list(range(8))
    assert (gate.running, gate.waiting) == (0, 0)


async def test_leaving_twice_frees_one_place() -> None:
    gate = ConcurrencyLimiter(1, 2)
    first, second, third = gate.acquire(), gate.acquire(), gate.acquire()
    first.release()
    first.release()
    await second.ready()
    assert (gate.running, gate.waiting) == (1, 1)
    second.release()
    third.release()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_cancelled_waiter_gives_up_its_place_in_the_queue() -> None:
    gate = ConcurrencyLimiter(1, 1)
    first, second = gate.acquire(), gate.acquire()
    waiting = asyncio.create_task(second.ready())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (gate.running, gate.waiting) == (1, 0)
    second.release()
    first.release()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_waiter_cancelled_as_its_turn_comes_passes_the_turn_on() -> None:
    gate = ConcurrencyLimiter(1, 2)
    first, second, third = gate.acquire(), gate.acquire(), gate.acquire()
    waiting = asyncio.create_task(second.ready())
    await asyncio.sleep(0)
    first.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(third.ready(), 1)
    assert (gate.running, gate.waiting) == (1, 0)


async def test_a_ticket_left_before_its_turn_is_skipped() -> None:
    gate = ConcurrencyLimiter(1, 2)
    first, second, third = gate.acquire(), gate.acquire(), gate.acquire()
    second.release()
    first.release()
    await asyncio.wait_for(third.ready(), 1)
    assert (gate.running, gate.waiting) == (1, 0)
