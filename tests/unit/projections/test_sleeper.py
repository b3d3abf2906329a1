"""A sleep that ends when a condition holds."""

import asyncio
import time

from projections.progress import Sleeper


async def test_a_condition_that_holds_already_needs_no_sleep() -> None:
    began_s = time.monotonic()
    await Sleeper().sleep(60.0, until=lambda: True)
    assert time.monotonic() - began_s < 1.0


async def test_it_ends_after_its_time() -> None:
    began_s = time.monotonic()
    await Sleeper().sleep(0.02, until=lambda: False)
    assert 0.01 < time.monotonic() - began_s < 1.0


async def test_it_ends_when_the_condition_holds_and_not_when_something_else_changes() -> None:
    sleeper, holds = Sleeper(), False
    sleeping = asyncio.create_task(sleeper.sleep(None, until=lambda: holds))
    for _ in range(3):
        await asyncio.sleep(0)
        sleeper.notify()
    assert not sleeping.done()
    holds = True
    sleeper.notify()
    sleeper.notify()  # a second one, before the task runs, harms nothing
    async with asyncio.timeout(1):
        await sleeping


async def test_one_that_was_cancelled_leaves_nothing_behind() -> None:
    sleeper, asked = Sleeper(), list[int]()

    def is_over() -> bool:
        asked.append(1)
        return False

    sleeping = asyncio.create_task(sleeper.sleep(60.0, until=is_over))
    await asyncio.sleep(0)
    sleeping.cancel()
    await asyncio.wait([sleeping])
    before = len(asked)
    sleeper.notify()
    assert len(asked) == before
