"""Waiting for the projections to get somewhere."""

import asyncio

import pytest

from projections.errors import ProjectionLag, ProjectionsStopped
from projections.progress import Progress


async def test_a_position_that_was_reached_is_not_waited_for() -> None:
    progress = Progress()
    progress.reach(3)
    await progress.wait_for(3, 0)


async def test_a_waiter_wakes_at_its_own_position() -> None:
    progress = Progress()
    near, far = (asyncio.create_task(progress.wait_for(position, 5)) for position in (2, 5))
    await asyncio.sleep(0)
    progress.reach(2)
    await near
    assert not far.done()
    progress.reach(7)
    await far


async def test_a_wait_ends_with_where_the_projections_are() -> None:
    progress = Progress()
    progress.reach(4)
    with pytest.raises(ProjectionLag, match="at position 4, not yet at 9"):
        await progress.wait_for(9, 0.01)


async def test_a_waiter_that_went_away_disturbs_nobody() -> None:
    progress = Progress()
    waiter = asyncio.create_task(progress.wait_for(2, 5))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    progress.reach(2)


async def test_when_the_projections_stop_every_waiter_is_told_why() -> None:
    progress = Progress()
    waiter = asyncio.create_task(progress.wait_for(2, 5))
    await asyncio.sleep(0)
    reason = RuntimeError("unknown event")
    progress.stop(reason)
    with pytest.raises(ProjectionsStopped) as stopped:
        await waiter
    assert stopped.value.__cause__ is reason
    with pytest.raises(ProjectionsStopped):
        await progress.wait_for(2, 5)


async def test_waiters_that_gave_up_are_forgotten() -> None:
    progress = Progress()
    for _ in range(3):
        with pytest.raises(ProjectionLag):
            await progress.wait_for(2, 0)
    assert progress.waiting == 0
