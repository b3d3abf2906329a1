"""What every store promises (events.log.EventLog), a sentence each."""

import asyncio

import pytest

from events.catalogue import Event, MessagePosted
from events.chain import GENESIS
from events.errors import LogBusy, LogUnavailable, VersionConflict
from events.log import EventLog
from events.options import LogOptions
from events.record import Head, Metadata, RecordedEvent
from events.verify import verify
from tests.contract.conftest import START_US, SqliteStores
from tests.support.sample_events import ASKED, EVERY_EVENT, deleted, posted

ALL = 10_000  # a limit that no test reaches


def texts(recorded: list[RecordedEvent]) -> list[str | None]:
    return [event.event.content if isinstance(event.event, MessagePosted) else None for event in recorded]


async def fill(log: EventLog, stream_id: str, *contents: str) -> None:
    for version, content in enumerate(contents):
        await log.append(stream_id, version, [posted(content)], ASKED)


class Counts:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.reasons: list[str] = []

    def appended(self, batch_events: int, append_s: float, commit_s: float) -> None:
        assert append_s >= commit_s > 0
        self.batches.append(batch_events)

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)


async def test_an_empty_log_has_head_zero_and_reads_nothing(log: EventLog) -> None:
    assert log.head() == Head(0, GENESIS)
    assert await log.read("a", limit=ALL) == []
    assert await log.read_all(limit=ALL) == []
    assert await log.read_at([1, 2]) == {}
    assert await log.rows(limit=ALL) == []


async def test_every_event_type_is_read_as_it_was_appended(log: EventLog) -> None:
    recorded = await log.append("a", 0, EVERY_EVENT, ASKED)
    assert tuple(event.event for event in recorded) == EVERY_EVENT
    assert [event.version for event in recorded] == list(range(1, len(EVERY_EVENT) + 1))
    assert {(event.stream_id, event.recorded_at_us, event.metadata) for event in recorded} == {
        ("a", START_US + 1_000_000, ASKED)
    }
    assert tuple(await log.read("a", limit=ALL)) == recorded
    assert tuple(await log.read_all(limit=ALL)) == recorded
    assert await log.read_at([event.position for event in recorded]) == {event.position: event for event in recorded}


async def test_positions_are_gapless_in_commit_order_over_all_streams(log: EventLog) -> None:
    first = await log.append("a", 0, [posted("1"), posted("2")], ASKED)
    second = await log.append("b", 0, [posted("3")], Metadata(cause="expiry"))
    third = await log.append("a", 2, [posted("4")], ASKED)
    assert [event.position for event in (*first, *second, *third)] == [1, 2, 3, 4]
    assert texts(await log.read_all(limit=ALL)) == ["1", "2", "3", "4"]
    assert texts(await log.read("a", limit=ALL)) == ["1", "2", "4"]
    assert (await log.read("b", limit=ALL))[0].metadata == Metadata(cause="expiry")


@pytest.mark.parametrize("expected_version", [0, 1, 3, 1_000_000])
async def test_an_append_at_another_version_conflicts_and_records_nothing(log: EventLog, expected_version: int) -> None:
    await fill(log, "a", "1", "2")
    head = log.head()
    with pytest.raises(VersionConflict) as refusal:
        await log.append("a", expected_version, [posted("x"), posted("y")], ASKED)
    assert (refusal.value.stream_id, refusal.value.expected_version) == ("a", expected_version)
    assert log.head() == head
    assert texts(await log.read_all(limit=ALL)) == ["1", "2"]


async def test_a_new_stream_is_at_version_zero_only(log: EventLog) -> None:
    with pytest.raises(VersionConflict):
        await log.append("new", 1, [posted("x")], ASKED)
    assert log.head().position == 0


async def test_a_conflict_fails_alone_and_its_neighbours_are_recorded(log: EventLog) -> None:
    await fill(log, "stale", "1", "2")
    wrong = {7: ("stale", 1), 13: ("ahead", 5)}
    asked = [wrong.get(number, (f"s{number}", 0)) for number in range(20)]
    appends = [log.append(stream_id, version, [posted(stream_id)], ASKED) for stream_id, version in asked]
    results = await asyncio.gather(*appends, return_exceptions=True)
    failed = [number for number, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [7, 13]
    assert isinstance(results[7], VersionConflict)
    assert isinstance(results[13], VersionConflict)
    assert log.head().position == 20
    assert texts(await log.read("stale", limit=ALL)) == ["1", "2"]
    assert (await verify(log))[1] is None


async def test_appends_to_one_stream_that_wait_together_follow_each_other(log: EventLog) -> None:
    appends = [log.append("a", version, [posted(str(version))], ASKED) for version in range(50)]
    results = await asyncio.gather(*appends)
    assert [recorded[0].version for recorded in results] == list(range(1, 51))
    assert texts(await log.read("a", limit=ALL)) == [str(version) for version in range(50)]


async def test_of_two_appends_at_one_version_the_first_to_come_wins(log: EventLog) -> None:
    first, second = await asyncio.gather(
        log.append("a", 0, [posted("first")], ASKED),
        log.append("a", 0, [posted("second")], ASKED),
        return_exceptions=True,
    )
    assert isinstance(first, tuple)
    assert isinstance(second, VersionConflict)


async def test_a_stale_append_does_not_spoil_the_right_one_behind_it(log: EventLog) -> None:
    await fill(log, "a", "1")
    stale, right = await asyncio.gather(
        log.append("a", 7, [posted("stale")], ASKED),
        log.append("a", 1, [posted("right")], ASKED),
        return_exceptions=True,
    )
    assert isinstance(stale, VersionConflict)
    assert isinstance(right, tuple)
    assert texts(await log.read("a", limit=ALL)) == ["1", "right"]


async def test_concurrent_writers_of_few_streams_lose_and_double_nothing(log: EventLog) -> None:
    """Sixteen writers race on three streams, each reading the tail and deciding again when it loses."""

    async def write(writer: int) -> None:
        for number in range(12):
            stream_id = f"s{(writer + number) % 3}"
            while True:
                tail = await log.read(stream_id, limit=1, backwards=True)
                version = tail[0].version if tail else 0
                try:
                    await log.append(stream_id, version, [posted(f"{writer}:{number}")] * (1 + number % 2), ASKED)
                except VersionConflict:
                    continue
                break

    await asyncio.gather(*(write(writer) for writer in range(16)))
    recorded = await log.read_all(limit=ALL)
    assert [event.position for event in recorded] == list(range(1, 16 * 18 + 1))
    expected = [f"{writer}:{number}" for writer in range(16) for number in range(12) for _ in range(1 + number % 2)]
    assert sorted(text or "" for text in texts(recorded)) == sorted(expected)
    walk, fault = await verify(log)
    assert fault is None
    assert Head(walk.position, walk.digest) == log.head()


async def test_an_append_is_all_or_nothing_and_as_long_as_a_batch_at_most(stores: SqliteStores) -> None:
    log = await stores.open(LogOptions(append_batch_max=8))
    assert len(await log.append("a", 0, [posted("x")] * 8, ASKED)) == 8
    with pytest.raises(ValueError, match="at most 8 events"):
        await log.append("a", 8, [posted("x")] * 9, ASKED)
    with pytest.raises(ValueError, match="at least one event"):
        await log.append("a", 8, [], ASKED)
    assert log.head().position == 8


@pytest.mark.parametrize("expected_version", [-1, -(2**70), 2**70])
async def test_a_number_that_is_no_version_fails_its_caller_alone(log: EventLog, expected_version: int) -> None:
    wrong, right = await asyncio.gather(
        log.append("a", expected_version, [posted("x")], ASKED),
        log.append("b", 0, [posted("y")], ASKED),
        return_exceptions=True,
    )
    assert isinstance(wrong, ValueError)
    assert isinstance(right, tuple)


@pytest.mark.parametrize(
    ("stream_id", "event", "metadata"),
    [
        ("a", posted("half a pair: \ud83d"), ASKED),
        ("\udc00", posted("x"), ASKED),
        ("a", posted("x"), Metadata(request_id="\ud800")),
    ],
)
async def test_text_that_is_no_unicode_fails_its_caller_alone(
    log: EventLog, stream_id: str, event: Event, metadata: Metadata
) -> None:
    wrong, right = await asyncio.gather(
        log.append(stream_id, 0, [event], metadata), log.append("b", 0, [posted("y")], ASKED), return_exceptions=True
    )
    assert isinstance(wrong, ValueError)
    assert isinstance(right, tuple)
    assert log.head().position == 1


async def test_read_pages_forwards_and_backwards(log: EventLog) -> None:
    await fill(log, "a", *"12345")
    await fill(log, "b", "other")
    assert texts(await log.read("a", limit=2)) == ["1", "2"]
    assert texts(await log.read("a", after=2, limit=2)) == ["3", "4"]
    assert texts(await log.read("a", after=5, limit=2)) == []
    assert texts(await log.read("a", limit=2, backwards=True)) == ["5", "4"]
    assert texts(await log.read("a", after=3, limit=ALL, backwards=True)) == ["5", "4"]
    assert texts(await log.read_all(after=4, limit=1)) == ["5"]
    assert texts(await log.read_all(after=4, limit=ALL)) == ["5", "other"]
    assert [row.position for row in await log.rows(after=1, limit=3)] == [2, 3, 4]


async def test_a_read_needs_a_limit_and_survives_any_number(log: EventLog) -> None:
    await fill(log, "a", "1")
    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit"):
            await log.read("a", limit=limit)
    assert await log.read("a", after=10**30, limit=10**30) == []
    assert texts(await log.read_all(after=-(10**30), limit=10**30)) == ["1"]
    assert list(await log.read_at([0, -1, 1, 1, 10**30])) == [1]


async def test_read_at_takes_any_number_of_positions(log: EventLog) -> None:
    for start in range(0, 1200, 200):
        await log.append("a", start, [posted(str(start + number)) for number in range(200)], ASKED)
    found = await log.read_at(range(1, 1500))
    assert sorted(found) == list(range(1, 1201))
    assert texts([found[7], found[1200]]) == ["6", "1199"]


async def test_the_log_is_the_same_after_it_was_closed_and_opened(stores: SqliteStores) -> None:
    log = await stores.open()
    await fill(log, "a", "1", "2")
    recorded, head = await log.read_all(limit=ALL), log.head()
    await log.close()
    again = await stores.open()
    assert again.head() == head
    assert await again.read_all(limit=ALL) == recorded
    await again.append("a", 2, [posted("3")], ASKED)
    assert (await verify(again))[1] is None


async def test_wait_returns_at_once_when_the_head_is_past_the_position(log: EventLog) -> None:
    await fill(log, "a", "1")
    assert await log.wait(0) == log.head()


async def test_wait_wakes_everyone_at_the_commit(log: EventLog) -> None:
    waiters = [asyncio.create_task(log.wait(0)) for _ in range(5)]
    late = asyncio.create_task(log.wait(1))
    gone = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)
    gone.cancel()
    await fill(log, "a", "1")
    async with asyncio.timeout(5):
        assert {head.position for head in await asyncio.gather(*waiters)} == {1}
    assert not late.done()
    await log.append("a", 1, [posted("2")], ASKED)
    assert (await late).position == 2


async def test_whoever_waits_is_told_when_the_log_closes(log: EventLog) -> None:
    waiter = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)
    await log.close()
    with pytest.raises(LogUnavailable):
        await waiter
    with pytest.raises(LogUnavailable):
        await log.wait(0)


async def test_erase_removes_the_content_of_all_earlier_events_and_nothing_else(log: EventLog) -> None:
    await fill(log, "a", "1", "2")
    await fill(log, "b", "other")
    rows = await log.rows(limit=ALL)
    (recorded,) = await log.erase("a", 2, deleted(), ASKED)
    await log.append("a", 3, [posted("after")], ASKED)
    assert (recorded.version, recorded.event) == (3, deleted())
    events = await log.read("a", limit=ALL)
    assert [event.event for event in events] == [None, None, deleted(), posted("after")]
    assert events[0].metadata == ASKED
    assert texts(await log.read("b", limit=ALL)) == ["other"]
    kept = await log.rows(limit=3)
    assert [(row.commitment, row.digest) for row in kept] == [(row.commitment, row.digest) for row in rows]
    assert [(row.data, row.salt) for row in kept[:2]] == [(None, None)] * 2
    assert (await verify(log))[1] is None


async def test_a_stream_can_be_erased_again(log: EventLog) -> None:
    await fill(log, "a", "1")
    await log.erase("a", 1, EVERY_EVENT[11], ASKED)
    await log.append("a", 2, [posted("2")], ASKED)
    await log.erase("a", 3, deleted(), ASKED)
    assert [event.event for event in await log.read("a", limit=ALL)] == [None, None, None, deleted()]
    assert (await verify(log))[1] is None


async def test_an_erasure_at_another_version_conflicts_and_erases_nothing(log: EventLog) -> None:
    await fill(log, "a", "1", "2")
    with pytest.raises(VersionConflict):
        await log.erase("a", 1, deleted(), ASKED)
    assert texts(await log.read("a", limit=ALL)) == ["1", "2"]


async def test_an_erasure_needs_an_event_that_explains_it(log: EventLog) -> None:
    await fill(log, "a", "1")
    with pytest.raises(ValueError, match="message_posted does not explain"):
        await log.erase("a", 1, posted("because"), ASKED)
    assert texts(await log.read("a", limit=ALL)) == ["1"]


async def test_erasures_and_appends_that_wait_together_keep_their_order(log: EventLog) -> None:
    await fill(log, "a", "1")
    results = await asyncio.gather(
        log.append("a", 1, [posted("2")], ASKED),
        log.erase("a", 2, deleted(), ASKED),
        log.append("a", 3, [posted("after")], ASKED),
        log.erase("b", 4, deleted(), ASKED),
        log.append("c", 0, [posted("other")], ASKED),
        return_exceptions=True,
    )
    assert [isinstance(result, VersionConflict) for result in results] == [False, False, False, True, False]
    assert [event.event for event in await log.read("a", limit=ALL)] == [None, None, deleted(), posted("after")]
    assert texts(await log.read("c", limit=ALL)) == ["other"]
    assert (await verify(log))[1] is None


async def test_an_append_whose_caller_is_cancelled_is_written_and_disturbs_nobody(log: EventLog) -> None:
    tasks = [
        asyncio.create_task(log.append(f"s{number}", 0, [posted(str(number))], ASKED)) for number in range(30)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 15
    await log.append("last", 0, [posted("last")], ASKED)
    assert texts(await log.read_all(limit=ALL)) == [*map(str, range(30)), "last"]


async def test_more_appends_than_may_wait_are_refused_as_busy(stores: SqliteStores) -> None:
    log = await stores.open(LogOptions(append_queue_max=4))
    appends = [log.append(f"s{number}", 0, [posted("x")], ASKED) for number in range(10)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(result, LogBusy) for result in results] == [False] * 4 + [True] * 6
    await log.append("later", 0, [posted("x")], ASKED)
    assert log.head().position == 5


async def test_more_content_than_may_wait_is_refused_as_busy(stores: SqliteStores) -> None:
    log = await stores.open(LogOptions(append_queue_bytes=10_000))
    appends = [log.append(f"s{number}", 0, [posted("x" * 4000)], ASKED) for number in range(4)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(result, LogBusy) for result in results] == [False, False, True, True]
    await log.append("big", 0, [posted("x" * 50_000)], ASKED)  # alone it may be of any size
    assert log.head().position == 3


async def test_close_writes_what_waits_and_refuses_what_comes(stores: SqliteStores) -> None:
    log = await stores.open()
    waiting = [asyncio.create_task(log.append(f"s{number}", 0, [posted("x")], ASKED)) for number in range(600)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(log.close())
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable, match="closing"):
        await log.append("late", 0, [posted("x")], ASKED)
    await closing
    await log.close()
    assert len(await asyncio.gather(*waiting)) == 600
    with pytest.raises(LogUnavailable, match="closed"):
        await log.read_all(limit=1)
    assert (await stores.open()).head().position == 600


async def test_a_cancelled_close_still_closes(stores: SqliteStores) -> None:
    log = await stores.open()
    closing = asyncio.create_task(log.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await log.close()
    assert (await stores.open()).head().position == 0


async def test_an_observer_hears_of_batches_and_refusals(stores: SqliteStores) -> None:
    counts = Counts()
    log = await stores.open(LogOptions(append_queue_max=8), observe=counts)
    await asyncio.gather(*(log.append(f"s{n}", 0, [posted("x")] * 2, ASKED) for n in range(12)), return_exceptions=True)
    with pytest.raises(VersionConflict):
        await log.append("s1", 0, [posted("x")], ASKED)
    await log.close()
    with pytest.raises(LogUnavailable):
        await log.append("s1", 2, [posted("x")], ASKED)
    assert sum(counts.batches) == 16
    assert counts.reasons == ["busy"] * 4 + ["conflict", "closing"]
