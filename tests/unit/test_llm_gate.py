"""The gate: who runs, who waits, who is turned away."""

import asyncio

import pytest

from chatbot.llm.errors import LlmOverloaded
from chatbot.llm.gate import Gate


async def test_as_many_run_as_may_and_the_rest_wait() -> None:
    gate = Gate(2, 3)
    tickets = [gate.enter() for _ in range(4)]
    await tickets[0].ready()
    await tickets[1].ready()
    assert (gate.running, gate.waiting) == (2, 2)


async def test_the_expected_wait_follows_the_queue_and_how_long_replies_take() -> None:
    now_s = 0.0
    gate = Gate(2, 10, lambda: now_s)
    assert gate.expected_wait_s == 0
    first, second = gate.enter(), gate.enter()
    assert gate.expected_wait_s == 0  # no reply has ended yet: nothing is known
    now_s = 8.0
    first.leave()
    assert (gate.mean_s, gate.expected_wait_s) == (8.0, 0)
    gate.enter()
    assert gate.expected_wait_s == 4.0
    waiting = [gate.enter() for _ in range(3)]
    assert gate.expected_wait_s == 16.0
    second.leave()
    await waiting[0].ready()
    now_s = 26.0
    waiting[0].leave()
    assert gate.mean_s == 9.0
    waiting[2].leave()  # has never run, and says nothing
    assert gate.mean_s == 9.0


async def test_who_finds_the_queue_full_is_refused_at_once() -> None:
    gate = Gate(1, 1)
    gate.enter()
    assert not gate.is_full
    gate.enter()
    assert gate.is_full
    with pytest.raises(LlmOverloaded):
        gate.enter()
    assert (gate.running, gate.waiting) == (1, 1)


async def test_turns_come_in_the_order_of_entering() -> None:
    gate = Gate(1, 10)
    order: list[int] = []

    async def reply(number: int) -> None:
        ticket = gate.enter()
        await ticket.ready()
        order.append(number)
        await asyncio.sleep(0)
        ticket.leave()

    await asyncio.gather(*(reply(number) for number in range(8)))
    assert order == list(range(8))
    assert (gate.running, gate.waiting) == (0, 0)


async def test_leaving_twice_frees_one_place() -> None:
    gate = Gate(1, 2)
    first, second, third = gate.enter(), gate.enter(), gate.enter()
    first.leave()
    first.leave()
    await second.ready()
    assert (gate.running, gate.waiting) == (1, 1)
    second.leave()
    third.leave()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_cancelled_waiter_gives_up_its_place_in_the_queue() -> None:
    gate = Gate(1, 1)
    first, second = gate.enter(), gate.enter()
    waiting = asyncio.create_task(second.ready())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (gate.running, gate.waiting) == (1, 0)
    second.leave()
    first.leave()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_waiter_cancelled_as_its_turn_comes_passes_the_turn_on() -> None:
    gate = Gate(1, 2)
    first, second, third = gate.enter(), gate.enter(), gate.enter()
    waiting = asyncio.create_task(second.ready())
    await asyncio.sleep(0)
    first.leave()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(third.ready(), 1)
    assert (gate.running, gate.waiting) == (1, 0)


async def test_a_ticket_left_before_its_turn_is_skipped() -> None:
    gate = Gate(1, 2)
    first, second, third = gate.enter(), gate.enter(), gate.enter()
    second.leave()
    first.leave()
    await asyncio.wait_for(third.ready(), 1)
    assert (gate.running, gate.waiting) == (1, 0)
