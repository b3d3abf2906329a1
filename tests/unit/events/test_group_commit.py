"""Group commit, with a store made of lists."""

import asyncio
from collections.abc import Sequence

import pytest

from events.errors import LogUnavailable
from events.integrity.hash_chain import GENESIS
from events.log_observer import NoObserver
from events.options import APPEND_BATCH_LIMIT, LogOptions
from events.record import Head
from events.storage import group_commit
from events.storage.append_batch import AppendContext, Outcome, PendingAppend, plan, prepare
from events.storage.group_commit import GroupCommit
from tests.support.log.sample_events import ASKED, posted


class RecordingBatchStore:
    """A store that keeps the sizes of its batches, waits when told to and fails when told to."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = asyncio.Event()
        self.free.set()
        self.fail: list[Exception] = []
        self.tidied = 0
        self.pauses: list[float | None] = []
        self._head = Head(0, GENESIS)
        self.probes = 0

    async def probe(self) -> None:
        await self.free.wait()
        self.probes += 1
        if self.fail:
            raise self.fail.pop()

    async def write(self, batch: Sequence[PendingAppend]) -> list[Outcome]:
        await self.free.wait()
        if self.fail:
            raise self.fail.pop()
        planned = plan(batch, self._head, {})
        self._head = planned.head
        self.batches.append(len(planned.rows))
        return planned.outcomes

    async def maintain(self) -> float | None:
        self.tidied += 1
        return self.pauses.pop(0) if self.pauses else None


def pending(stream_id: str, events: int = 1) -> PendingAppend:
    return prepare([posted("x")] * events, AppendContext(stream_id, 0, ASKED, 1), bytes)


async def test_whatever_waits_goes_into_one_batch() -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(), NoObserver())
    store.free.clear()
    first = writer.submit(pending("s0"))
    await asyncio.sleep(0.01)
    rest = [writer.submit(pending(f"s{number}")) for number in range(1, 41)]
    assert writer.waiting == 40
    store.free.set()
    await asyncio.gather(first, *rest)
    await writer.close()
    assert store.batches == [1, 40]


async def test_a_batch_holds_no_more_events_than_allowed_and_keeps_the_order() -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(append_batch_max=10), NoObserver())
    futures = [writer.submit(pending(f"s{number}", 4)) for number in range(5)]
    results = await asyncio.gather(*futures)
    await writer.close()
    assert store.batches == [8, 8, 4]
    assert [recorded[0].position for recorded in results] == [1, 5, 9, 13, 17]


async def test_those_woken_by_one_batch_meet_in_the_next() -> None:
    """Without that, those who write together once would stay apart in two batches."""
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(), NoObserver())

    async def append_often(name: int) -> None:
        for number in range(10):
            await writer.submit(pending(f"{name}-{number}"))

    store.free.clear()
    early = asyncio.create_task(append_often(0))
    await asyncio.sleep(0.01)
    late = [asyncio.create_task(append_often(name)) for name in range(1, 8)]
    await asyncio.sleep(0.01)
    store.free.set()
    await asyncio.gather(early, *late)
    await writer.close()
    assert store.batches == [1, *[8] * 9, 7]


async def test_an_impossible_exception_refuses_its_batch_is_kept_and_the_writer_goes_on() -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(), NoObserver())
    store.fail.append(RuntimeError("impossible"))
    failed = await asyncio.gather(writer.submit(pending("a")), writer.submit(pending("b")), return_exceptions=True)
    assert [str(error) for error in failed if isinstance(error, LogUnavailable)] == [
        "the log failed in an unexpected way (RuntimeError('impossible')): read the stream again"
    ] * 2
    assert isinstance(writer.failure, RuntimeError)
    assert (await writer.submit(pending("a")))[0].position == 1
    await writer.close()


async def test_an_observer_that_raises_is_kept_as_failure_and_harms_no_append() -> None:
    class Broken(NoObserver):
        def appended(self, batch_events: int, append_s: float, commit_s: float) -> None:
            raise ZeroDivisionError

    writer = GroupCommit(RecordingBatchStore(), LogOptions(), Broken())
    assert (await writer.submit(pending("a")))[0].position == 1
    assert (await writer.submit(pending("b")))[0].position == 2
    await writer.close()
    assert isinstance(writer.failure, ZeroDivisionError)


async def test_the_store_may_tidy_at_the_start_after_each_batch_and_when_it_asks() -> None:
    store = RecordingBatchStore()
    store.pauses = [0.01, 0.01, None]
    writer = GroupCommit(store, LogOptions(), NoObserver())
    async with asyncio.timeout(10):
        while store.tidied < 3:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert store.tidied == 3, "it asks no more"
    await writer.submit(pending("a"))
    await asyncio.sleep(0.01)
    assert store.tidied == 4
    await writer.close()


async def test_a_loop_torn_down_under_the_writer_leaves_nobody_waiting() -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(append_batch_max=1), NoObserver())
    store.free.clear()
    futures = [writer.submit(pending(f"s{number}")) for number in range(3)]
    await asyncio.sleep(0.01)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "log-writer"]
    task.cancel()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [LogUnavailable] * 3
    with pytest.raises(LogUnavailable):
        await writer.submit(pending("late"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"append_batch_max": 0},
        {"append_batch_max": APPEND_BATCH_LIMIT + 1},
        {"append_queue_max": 0},
        {"append_queue_bytes": 0},
        {"read_connections": 0},
    ],
)
def test_a_number_that_would_stop_the_log_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LogOptions(**wrong)


async def test_who_appends_side_by_side_shares_commits_from_then_on() -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(commit_delay_s=5.0), NoObserver())
    for name in "ab":
        await asyncio.gather(*(writer.submit(pending(f"{name}{number}")) for number in range(3)))
    late = [writer.submit(pending("c0"))]
    await asyncio.sleep(0.02)
    assert store.batches == [3, 3]  # it waits for company
    late += [writer.submit(pending(f"c{number}")) for number in (1, 2)]
    await asyncio.gather(*late)
    await writer.close()
    assert store.batches == [3, 3, 3]


async def test_nobody_waits_for_a_crowd_that_came_once() -> None:
    """As when sessions expire eight at a time while one chats."""
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(commit_delay_s=60.0), NoObserver())
    async with asyncio.timeout(5):
        for number in range(3):
            await asyncio.gather(*(writer.submit(pending(f"a{number}-{place}")) for place in range(8)))
            await writer.submit(pending(f"b{number}"))
    await writer.close()
    assert store.batches == [8, 1] * 3


async def test_who_is_alone_waits_for_nobody_but_once() -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(commit_delay_s=0.2), NoObserver())
    loop = asyncio.get_running_loop()
    for name in "ab":
        await asyncio.gather(*(writer.submit(pending(f"{name}{number}")) for number in range(2)))
    for number, most_s in enumerate((2.0, 0.15, 0.15)):
        began_s = loop.time()
        await writer.submit(pending(f"c{number}"))
        assert loop.time() - began_s < most_s
    await writer.close()
    assert store.batches == [2, 2, 1, 1, 1]


async def test_a_full_batch_and_a_closing_log_wait_for_nobody() -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(commit_delay_s=60.0, append_batch_max=4), NoObserver())
    async with asyncio.timeout(5):
        await asyncio.gather(*(writer.submit(pending(f"a{number}")) for number in range(4)))
        await writer.submit(pending("b", 4))
        for name in "cd":
            await asyncio.gather(writer.submit(pending(f"{name}0")), writer.submit(pending(f"{name}1")))
        last = writer.submit(pending("e"))
        await asyncio.sleep(0.01)
        assert store.batches == [4, 4, 2, 2]
        await writer.close()
        await last
    assert store.batches == [4, 4, 2, 2, 1]


async def test_a_probe_waits_behind_appends_and_is_shared_by_all_who_ask_meanwhile() -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(), NoObserver())
    store.free.clear()
    appended = writer.submit(pending("a"))
    await asyncio.sleep(0)
    probes = [asyncio.create_task(writer.probe()) for _ in range(3)]
    left = asyncio.create_task(writer.probe())
    await asyncio.sleep(0)
    left.cancel()
    store.free.set()
    await asyncio.gather(*probes)
    assert (appended.done(), store.probes) == (True, 1)
    await writer.probe()
    assert store.probes == 2
    await writer.close()
    with pytest.raises(LogUnavailable, match="closing"):
        await writer.probe()


@pytest.mark.parametrize(("error", "is_ours"), [(LogUnavailable("the disk is full"), False), (KeyError("x"), True)])
async def test_a_probe_that_fails_is_a_refusal_and_the_next_one_may_do(error: Exception, is_ours: bool) -> None:
    store = RecordingBatchStore()
    writer = GroupCommit(store, LogOptions(), NoObserver())
    store.fail.append(error)
    with pytest.raises(LogUnavailable, match=r"disk is full|unexpected way"):
        await writer.probe()
    assert (writer.failure is error) is is_ours
    await writer.probe()
    await writer.submit(pending("a"))
    await writer.close()


class Stalls(NoObserver):
    """Remembers how long appends had waited."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def stalled(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def test_a_store_that_does_not_return_is_reported_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "STALLED_S", 0.05)
    store, stalls = RecordingBatchStore(), Stalls()
    writer = GroupCommit(store, LogOptions(), stalls)
    assert writer.oldest_append_s == 0
    await writer.submit(pending("quick"))
    assert writer.oldest_append_s == 0
    for number in range(2):
        store.free.clear()
        stuck = writer.submit(pending(f"stuck{number}"))
        await asyncio.sleep(0.01)
        behind = writer.submit(pending(f"behind{number}"))
        await asyncio.sleep(0.2)
        assert len(stalls.seconds) == number + 1
        assert stalls.seconds[number] >= 0.05
        assert writer.oldest_append_s > 0.2
        store.free.set()
        await asyncio.gather(stuck, behind)
        assert writer.oldest_append_s == 0
        await asyncio.sleep(0.1)
    await writer.close()
    assert len(stalls.seconds) == 2


async def test_a_store_that_stalls_again_after_one_late_batch_is_reported_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "STALLED_S", 0.1)
    store, stalls = RecordingBatchStore(), Stalls()
    writer = GroupCommit(store, LogOptions(), stalls)
    store.free.clear()
    first = writer.submit(pending("first"))
    await asyncio.sleep(0.01)
    behind = writer.submit(pending("behind"))  # older than STALLED_S when its own commit begins
    await asyncio.sleep(0.14)
    assert len(stalls.seconds) == 1
    first.add_done_callback(lambda _: store.free.clear())
    store.free.set()
    await first
    await asyncio.sleep(0.25)
    assert not behind.done()
    assert len(stalls.seconds) == 2
    store.free.set()
    await behind
    await writer.close()


async def test_appends_that_wait_for_maintenance_are_seen_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "STALLED_S", 0.05)
    store, stalls = RecordingBatchStore(), Stalls()
    writer = GroupCommit(store, LogOptions(), stalls)
    store.free.clear()
    job = writer.run(store.free.wait)
    await asyncio.sleep(0.01)
    append = writer.submit(pending("a"))
    await asyncio.sleep(0.1)
    assert writer.oldest_append_s > 0.05
    assert len(stalls.seconds) == 1
    store.free.set()
    await asyncio.gather(job, append)
    await writer.close()
