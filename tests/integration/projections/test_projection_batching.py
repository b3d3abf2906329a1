"""Events gather before they are folded, unless somebody waits for them."""

import asyncio
import time
from pathlib import Path

import pytest

from events.record import Head
from projections.factory import create_runner
from projections.runner import COLLECTED_MAX, LISTS_DELAY_S, ProjectionRunner, RunnerOptions
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


async def has_folded(runner: ProjectionRunner, position: int, *, within_s: float) -> None:
    """Without waiting for it at the runner, which would fold at once."""
    async with asyncio.timeout(within_s):
        while runner.position < position:
            await asyncio.sleep(0.01)


async def test_events_that_nobody_waits_for_are_folded_together(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told, delay_s=1.0)
    for n in range(10):
        log.record(f"s{n}", created())
        await asyncio.sleep(0.005)
    assert told.batches == []
    await has_folded(runner, 10, within_s=5.0)
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
    await has_folded(runner, 5, within_s=AT_ONCE_S)
    await runner.stop()


async def test_many_events_do_not_wait(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told)
    for n in range(COLLECTED_MAX - 1):
        log.record(f"s{n}", created())
        if not n:
            await asyncio.sleep(0.05)  # it collects by now
    await asyncio.sleep(0.05)
    assert told.batches == []
    log.record("last", created())
    await has_folded(runner, COLLECTED_MAX, within_s=AT_ONCE_S)
    await runner.stop()
    assert told.batches == [COLLECTED_MAX]


async def test_what_somebody_follows_in_a_list_hardly_waits(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told)
    runner.set_list_readers(has_readers=True)
    log.record("seen", created())
    await has_folded(runner, 1, within_s=AT_ONCE_S)
    runner.set_list_readers(has_readers=False)
    log.record("unseen", created())
    await asyncio.sleep(5 * LISTS_DELAY_S)
    assert runner.position == 1
    await runner.stop()


async def test_a_log_that_others_write_is_looked_at_when_somebody_waits(path: Path) -> None:
    log, told = QuietLog(), RecordingObserver()
    runner = await following(path, log, told, poll_max_s=60.0)
    await asyncio.sleep(0.05)  # it waits for its next look by now
    log.record("s", created())
    assert log.head().position == 0, "nobody has told this process"
    async with asyncio.timeout(AT_ONCE_S):
        await runner.wait_for(1)
    await runner.stop()


async def test_what_this_process_appends_to_a_log_that_others_write_is_collected_from_then_on(path: Path) -> None:
    log, told = MemoryLog(), RecordingObserver()
    runner = await following(path, log, told, delay_s=0.3, poll_max_s=60.0)
    await asyncio.sleep(1.0)  # the next look is more than a second away
    for n in range(3):
        log.record(f"s{n}", created())
    await has_folded(runner, 3, within_s=AT_ONCE_S)
    await runner.stop()
    assert told.batches == [3]


async def test_without_a_delay_a_log_that_others_write_is_looked_at_more_and_more_rarely(path: Path) -> None:
    log, told = QuietLog(), RecordingObserver()
    runner = await following(path, log, told, delay_s=0.0, poll_max_s=60.0)
    await asyncio.sleep(0.5)
    assert 1 <= log.looks < 10
    await runner.stop()


async def test_a_stop_does_not_wait_for_a_look_at_the_log(path: Path) -> None:
    log, told = SilentLog(), RecordingObserver()
    runner = await following(path, log, told, delay_s=0.01, poll_max_s=0.01)
    async with asyncio.timeout(AT_ONCE_S):
        await log.asked.wait()
        await runner.stop()


class QuietLog(MemoryLog):
    """Of whose appends this process learns when it asks."""

    _seen = Head(0, bytes(32))
    looks = 0

    def head(self) -> Head:
        return self._seen

    async def latest(self) -> Head:
        self.looks += 1
        self._seen = super().head()
        return self._seen


class SilentLog(MemoryLog):
    """Does not answer when it is asked for its head."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def latest(self) -> Head:
        self.asked.set()
        await asyncio.sleep(60)
        raise AssertionError("not reached")


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
