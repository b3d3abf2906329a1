"""The gate: who runs, who waits, who is turned away."""

import asyncio

import pytest

from chatbot.llm.concurrency_limiter import ConcurrencyLimiter, OwnerLimits


async def test_as_many_run_as_may_and_the_rest_wait() -> None:
    gate = ConcurrencyLimiter(2, 3)
    tickets = [gate.acquire() for _ in range(4)]
    await tickets[0].ready()
    await tickets[1].ready()
    assert (gate.running, gate.waiting) == (2, 2)


async def test_the_expected_wait_follows_the_queue_and_how_long_replies_take() -> None:
    now_s = 0.0
    gate = ConcurrencyLimiter(2, 10, lambda: now_s)
    assert gate.expected_wait_s() == 0
    first, second = gate.acquire(), gate.acquire()
    assert gate.expected_wait_s() == 0  # no reply has ended yet: nothing is known
    now_s = 8.0
    first.release()
    assert (gate.mean_s, gate.expected_wait_s()) == (8.0, 0)
    gate.acquire()
    assert gate.expected_wait_s() == 4.0
    waiting = [gate.acquire() for _ in range(3)]
    assert gate.expected_wait_s() == 16.0
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
    assert gate.reserve("second") is None
    gate.acquire(reply_id="second")
    assert gate.reserve("third") == "full"
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


async def test_who_comes_while_another_has_many_waiting_is_next() -> None:
    gate = ConcurrencyLimiter(1, 10)
    running = gate.acquire("many")
    many = [gate.acquire("many") for _ in range(3)]
    one = gate.acquire("one")
    running.release()
    await asyncio.wait_for(one.ready(), 1)
    again = gate.acquire("one")
    one.release()
    await asyncio.wait_for(many[0].ready(), 1)
    many[0].release()
    await asyncio.wait_for(again.ready(), 1)


async def test_while_others_wait_an_owner_with_its_part_gets_no_further_slot() -> None:
    gate = ConcurrencyLimiter(4, 20)
    first = [gate.acquire("a") for _ in range(4)]
    waiting = [gate.acquire("a") for _ in range(4)] + [gate.acquire("b") for _ in range(4)]
    for slot in first[:2]:
        slot.release()
    await asyncio.wait_for(asyncio.gather(waiting[4].ready(), waiting[5].ready()), 1)
    first[2].release()  # two slots each: now in turn
    await asyncio.wait_for(waiting[0].ready(), 1)
    assert (gate.running, gate.waiting) == (4, 5)


async def test_an_owner_at_its_own_limit_leaves_slots_to_others() -> None:
    gate = ConcurrencyLimiter(3, 10, owner_limits=OwnerLimits(concurrent_max=1, queue_max=1))
    running, waiting = gate.acquire("a"), gate.acquire("a")
    assert gate.reserve("third", "a") == "over_share"
    assert gate.reserve("other", "b") is None
    await asyncio.wait_for(gate.acquire("b", reply_id="other").ready(), 1)
    assert (gate.running, gate.waiting, gate.expected_wait_s("c")) == (2, 1, 0)
    running.release()
    await asyncio.wait_for(waiting.ready(), 1)


async def test_slots_that_are_reserved_count_for_the_limits_of_their_owner() -> None:
    gate = ConcurrencyLimiter(10, 10, owner_limits=OwnerLimits(concurrent_max=1, queue_max=1))
    reserved = [gate.reserve(reply_id, "a") for reply_id in ("slot", "place", "further")]
    assert reserved == [None, None, "over_share"]
    gate.cancel("slot")
    assert gate.reserve("further", "a") is None


async def test_who_runs_nothing_comes_before_all_that_run_something() -> None:
    gate = ConcurrencyLimiter(4, 20)
    gate.acquire("a")
    running = [gate.acquire("b") for _ in range(3)]
    gate.acquire("a")  # waits, with less than its part of the slots
    newcomer = gate.acquire("c")
    running[0].release()
    await asyncio.wait_for(newcomer.ready(), 1)


async def test_an_owner_below_its_part_is_admitted_to_a_full_queue_up_to_a_bound() -> None:
    gate = ConcurrencyLimiter(1, 12)
    gate.acquire("a")
    for owner, part in (("a", 12), ("b", 6), ("c", 4)):
        for number in range(part):
            assert gate.reserve(f"{owner}{number}", owner) is None
            gate.acquire(owner, reply_id=f"{owner}{number}")
        assert gate.reserve("further", owner) == ("full" if owner == "a" else "over_share")
    assert gate.reserve("a", "a") == "over_share"


async def test_a_place_that_was_not_used_is_free_again() -> None:
    gate = ConcurrencyLimiter(1, 1)
    assert [gate.reserve(reply_id) for reply_id in ("first", "first", "second", "third")] == [None, None, None, "full"]
    gate.cancel("first")
    gate.cancel("first")
    assert gate.reserve("third") is None
    assert gate.reserve("fourth") == "full"


async def test_an_end_user_with_the_whole_queue_of_its_owner_leaves_parts_of_it_to_others() -> None:
    gate = ConcurrencyLimiter(1, 12)
    gate.acquire("front", "first")
    for user, part in (("first", 12), ("second", 6), ("third", 4)):
        for number in range(part):
            assert gate.reserve(f"{user}{number}", "front", user) is None
        assert gate.reserve("further", "front", user) == ("full" if user == "first" else "over_share")
    assert gate.reserve("further", "front", "first") == "over_share"
    assert gate.reserve("other", "other") is None


async def test_an_owner_at_its_limit_of_places_has_parts_of_it_left_for_other_end_users() -> None:
    gate = ConcurrencyLimiter(1, 100, owner_limits=OwnerLimits(queue_max=4))
    gate.acquire("front", "first")
    admitted = {
        user: sum(gate.reserve(f"{user}{number}", "front", user) is None for number in range(8))
        for user in ("first", "second", "third", "fourth", "fifth")
    }
    assert admitted == {"first": 4, "second": 2, "third": 1, "fourth": 1, "fifth": 0}
