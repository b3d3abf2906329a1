"""What every store promises at its bounds: wrong input, full queues, callers that leave, and the close."""

import asyncio

import pytest

from events.catalogue import Event
from events.errors import LogBusy, LogUnavailable, VersionConflict
from events.log import EventLog
from events.options import LogOptions
from events.record import Metadata
from tests.support.log.log_texts import ALL, texts
from tests.support.log.sample_events import ASKED, posted
from tests.support.log.stores import Stores


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

    def refused_by_writer(self) -> None:
        raise AssertionError

    def warned(self, subject: str, reason: str) -> None:
        raise AssertionError((subject, reason))

    def stalled(self, seconds: float) -> None:
        raise AssertionError(seconds)

    def notified(self, *, is_notified: bool) -> None:
        raise AssertionError(is_notified)

    def failed(self, error: Exception) -> None:
        self.reasons.append(repr(error))

    def files_lost(self, reason: str) -> None:
        self.reasons.append(reason)


async def test_an_append_is_all_or_nothing_and_as_long_as_a_batch_at_most(stores: Stores) -> None:
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


async def test_an_append_whose_caller_is_cancelled_is_written_and_disturbs_nobody(log: EventLog) -> None:
    tasks = [asyncio.create_task(log.append(f"s{number}", 0, [posted(str(number))], ASKED)) for number in range(30)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 15
    await log.append("last", 0, [posted("last")], ASKED)
    assert texts(await log.read_all(limit=ALL)) == [*map(str, range(30)), "last"]


async def test_more_appends_than_may_wait_are_refused_as_busy(stores: Stores) -> None:
    log = await stores.open(LogOptions(append_queue_max=4))
    appends = [log.append(f"s{number}", 0, [posted("x")], ASKED) for number in range(10)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(result, LogBusy) for result in results] == [False] * 4 + [True] * 6
    await log.append("later", 0, [posted("x")], ASKED)
    assert log.head().position == 5


async def test_more_content_than_may_wait_is_refused_as_busy(stores: Stores) -> None:
    log = await stores.open(LogOptions(append_queue_bytes=10_000))
    appends = [log.append(f"s{number}", 0, [posted("x" * 4000)], ASKED) for number in range(4)]
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(result, LogBusy) for result in results] == [False, False, True, True]
    await asyncio.gather(*(log.append(f"s{number}", 1, [posted("x" * 4000)], ASKED) for number in range(2)))
    await log.append("big", 0, [posted("x" * 50_000)], ASKED)  # alone it may be of any size
    assert log.head().position == 5


async def test_close_writes_what_waits_and_refuses_what_comes(stores: Stores) -> None:
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


async def test_a_cancelled_close_still_closes(stores: Stores) -> None:
    log = await stores.open()
    closing = asyncio.create_task(log.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await log.close()
    assert (await stores.open()).head().position == 0


async def test_an_observer_hears_of_batches_and_refusals(stores: Stores) -> None:
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
