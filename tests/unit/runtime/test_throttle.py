"""Big work rests between its pieces, so that all of it together has a share of the loop's time and no more."""

import asyncio
import time

import pytest

from chatbot.runtime.throttle import HOLD_MAX_S, REST_MAX_S, REST_RATIO, DutyCycleThrottle, ThrottledLog, batched
from tests.support.log.memory_log import MemoryLog


async def waited_s(throttle: DutyCycleThrottle) -> float:
    began_s = time.monotonic()
    await throttle.wait()
    return time.monotonic() - began_s


async def test_the_first_piece_waits_for_nothing_but_lets_the_loop_go_round() -> None:
    turn = asyncio.create_task(DutyCycleThrottle().wait())
    await asyncio.sleep(0)
    assert not turn.done()
    await asyncio.sleep(0)
    assert turn.done()


async def test_after_a_piece_comes_a_rest_in_proportion() -> None:
    throttle = DutyCycleThrottle()
    throttle.charge(0.02)
    assert await waited_s(throttle) >= 0.02 * REST_RATIO * 0.9


async def test_a_later_job_waits_for_the_rests_of_all_before() -> None:
    throttle = DutyCycleThrottle()
    for _ in range(3):
        throttle.charge(0.01)
    assert await waited_s(throttle) >= 3 * 0.01 * REST_RATIO * 0.9


async def test_a_piece_that_the_disk_made_wait_for_long_does_not_stop_the_work() -> None:
    throttle = DutyCycleThrottle()
    throttle.charge(3_600)
    async with asyncio.timeout(20 * REST_MAX_S):
        await throttle.wait()


async def test_work_is_measured_also_when_it_fails() -> None:
    throttle = DutyCycleThrottle()
    with pytest.raises(TimeoutError), throttle.measure():
        async with asyncio.timeout(0.02):
            await asyncio.Event().wait()
    assert await waited_s(throttle) >= 0.02 * REST_RATIO * 0.9


async def test_pieces_that_wait_are_done_one_at_a_time_and_a_cancelled_one_lets_the_next_begin() -> None:
    throttle = DutyCycleThrottle(rest_ratio=0.0)
    inside: list[int] = []

    async def piece() -> None:
        async with throttle.piece():
            inside.append(1)
            assert len(inside) == 1
            await asyncio.sleep(0.001)
            inside.pop()

    never = asyncio.create_task(stuck(throttle))
    waiting = [asyncio.create_task(piece()) for _ in range(10)]
    await asyncio.sleep(0.01)
    assert not any(one.done() for one in waiting)
    never.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)


async def stuck(throttle: DutyCycleThrottle) -> None:
    async with throttle.piece():
        await asyncio.Event().wait()


async def test_the_work_on_a_page_earns_a_rest_too() -> None:
    throttle = DutyCycleThrottle()
    log = ThrottledLog(MemoryLog(), throttle)
    assert await log.rows(limit=10) == []
    time.sleep(0.02)
    log.passed(0)
    assert await waited_s(throttle) >= 0.02 * REST_RATIO * 0.9


def test_things_come_in_pieces_in_order() -> None:
    assert [list(some) for some in batched(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


async def test_an_owner_with_one_job_gets_as_much_as_one_with_sixty() -> None:
    throttle = DutyCycleThrottle(rest_ratio=0.0)
    done = {"many": 0, "one": 0}

    async def job(owner: str, pieces: int) -> None:
        for _ in range(pieces):
            async with throttle.of(owner).piece():
                await asyncio.sleep(0)
            done[owner] += 1

    many = [asyncio.create_task(job("many", 1_000)) for _ in range(60)]
    await job("one", 20)
    assert done["many"] <= 22
    for one in many:
        one.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    async with asyncio.timeout(5):
        await throttle.wait()  # none of those that left keeps the turn


async def test_a_piece_that_does_not_end_holds_others_up_only_for_a_while() -> None:
    throttle = DutyCycleThrottle(rest_ratio=0.0)
    never = asyncio.create_task(stuck(throttle))
    async with asyncio.timeout(20 * HOLD_MAX_S):
        await asyncio.sleep(0.01)
        await throttle.wait()
    never.cancel()
