"""Events gather before they are folded, unless somebody waits for them."""

import asyncio
import time
from pathlib import Path

import pytest

from projections.factory import create_runner
from projections.runner import ProjectionRunner, RunnerOptions
from tests.support.log.event_builders import created
from tests.support.log.memory_log import MemoryLog
from tests.support.sessions.projection_harness import RecordingObserver

DELAY_S = 3.0
AT_ONCE_S = 1.0  # far below the delay, far above what a fold takes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "projections.db"


async def following(path: Path, log: MemoryLog, told: RecordingObserver, **options: float) -> ProjectionRunner:
    """A runner that has caught up with `log`."""
    runner = create_runner(path, log, told, RunnerOptions(**{"delay_s": DELAY_S, **options}))  # type: ignore[arg-type]  # a whole number among them
    await runner.start()
    await runner.wait_for(log.head().position)
    return runner


async def test_events_that_nobody_waits_for_are_folded_together(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told, delay_s=1.0)
    for n in range(10):
        log.record(f"s{n}", created())
        await asyncio.sleep(0.005)
    assert told.batches == []
    async with asyncio.timeout(5):
        while runner.position < 10:
            await asyncio.sleep(0.01)
    await runner.stop()
    assert told.batches == [10]


async def test_a_waiter_is_served_immediately(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told)
    for n in range(3):
        log.record(f"s{n}", created())
        await asyncio.sleep(0.05)  # it lingers by now
        began_s = time.monotonic()
        await runner.wait_for(log.head().position)
        assert time.monotonic() - began_s < AT_ONCE_S
        assert await runner.queries.counts() == {"active": n + 1}
    await runner.stop()


async def test_a_waiter_from_before_the_event_is_served_immediately(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told)
    waiting = asyncio.create_task(runner.wait_for(1))
    await asyncio.sleep(0.05)
    log.record("s", created())
    async with asyncio.timeout(AT_ONCE_S):
        await waiting
    await runner.stop()


async def test_a_full_batch_does_not_wait(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told, batch_max=5)
    for n in range(5):
        log.record(f"s{n}", created())
    async with asyncio.timeout(AT_ONCE_S):
        while runner.position < 5:
            await asyncio.sleep(0.01)
    await runner.stop()


async def test_a_stop_does_not_wait_for_events_to_gather(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told)
    log.record("s", created())
    await asyncio.sleep(0.05)
    async with asyncio.timeout(AT_ONCE_S):
        await runner.stop()
    again = await following(path, log, told)
    assert await again.queries.counts() == {"active": 1}
    await again.stop()
