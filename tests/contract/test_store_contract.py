"""What every store promises (events.log.EventLog) of appending and reading, a sentence each."""

import asyncio

import pytest

from events.errors import LogUnavailable, VersionConflict
from events.integrity.chain_verifier import verify
from events.integrity.hash_chain import GENESIS
from events.log import EventLog
from events.record import Head, Metadata
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_EVENT, deleted, posted
from tests.support.log.stores import Stores


async def test_an_empty_log_has_head_zero_and_reads_nothing(log: EventLog) -> None:
    assert log.head() == Head(0, GENESIS)
    assert await log.read("a", limit=ALL) == []
    assert await log.read_all(limit=ALL) == []
    assert await log.read_at([1, 2]) == {}
    assert await log.rows(limit=ALL) == []


async def test_every_event_type_is_read_as_it_was_appended(log: EventLog, stores: Stores) -> None:
    await put_sample_files(log)
    now_us = stores.clock()
    recorded = await log.append("a", 0, EVERY_EVENT, ASKED)
    assert tuple(event.event for event in recorded) == EVERY_EVENT
    assert [event.version for event in recorded] == list(range(1, len(EVERY_EVENT) + 1))
    assert {(event.stream_id, event.recorded_at_us, event.metadata) for event in recorded} == {
        ("a", now_us + 1_000_000, ASKED)
    }
    assert tuple(await log.read("a", limit=ALL)) == recorded
    assert tuple(await log.read_all(limit=ALL)) == recorded
    assert await log.read_at([event.position for event in recorded]) == {event.position: event for event in recorded}


async def test_control_characters_and_quotes_are_kept_wherever_they_are(log: EventLog) -> None:
    odd = "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028{},'\"\\n"
    asked = Metadata(actor=odd, request_id=odd)
    appends = [log.append(odd, version, [posted(odd), posted(f"{odd}{version}")], asked) for version in (0, 2)]
    recorded = [event for events in await asyncio.gather(*appends) for event in events]
    assert await log.read(odd, limit=ALL) == recorded
    assert texts(recorded) == [odd, f"{odd}0", odd, f"{odd}2"]
    assert {event.metadata for event in recorded} == {asked}
    assert (await verify(log))[1] is None


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


async def test_the_rows_of_a_stream_are_its_part_of_all_rows(log: EventLog) -> None:
    await fill(log, "a", *"123")
    await fill(log, "b", "other")
    await log.append("a", 3, [posted("4")], ASKED)
    own = [row for row in await log.rows(limit=ALL) if row.stream_id == "a"]
    assert [row.version for row in own] == [1, 2, 3, 4]
    assert await log.stream_rows("a", limit=ALL) == own
    assert await log.stream_rows("a", after=1, limit=2) == own[1:3]
    assert await log.stream_rows("a", after=4, limit=ALL) == await log.stream_rows("c", limit=ALL) == []
    assert await log.stream_rows("a", after=10**30, limit=10**30) == []
    with pytest.raises(ValueError, match="limit"):
        await log.stream_rows("a", limit=0)


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


async def test_a_page_ends_with_the_event_that_brings_it_to_its_bytes(log: EventLog) -> None:
    for version in range(6):
        await log.append("s", version, [posted("x" * 1_000)], ASKED)
    for bytes_max, wanted in ((1, 1), (1_001, 1), (2_500, 3), (100_000, 6)):
        forwards = await log.read("s", limit=10, bytes_max=bytes_max)
        assert [one.version for one in forwards] == list(range(1, wanted + 1))
        backwards = await log.read("s", limit=10, bytes_max=bytes_max, backwards=True)
        assert [one.version for one in backwards] == list(range(6, 6 - wanted, -1))
        for rows in (
            await log.rows(limit=10, bytes_max=bytes_max),
            await log.stream_rows("s", limit=10, bytes_max=bytes_max),
        ):
            assert [row.position for row in rows] == list(range(1, wanted + 1))
    assert len(await log.read("s", limit=2, bytes_max=100_000)) == 2
    assert [row.position for row in await log.rows(after=5, limit=10, bytes_max=1)] == [6]
    assert await log.rows(after=6, limit=10, bytes_max=1) == []


async def test_erased_events_weigh_nothing_in_a_page(log: EventLog) -> None:
    await log.append("s", 0, [posted("x" * 1_000), posted("y" * 1_000)], ASKED)
    await log.erase("s", 2, deleted(), ASKED)
    await log.append("t", 0, [posted("z" * 1_000), posted("last")], ASKED)
    assert [row.position for row in await log.rows(limit=10, bytes_max=900)] == [1, 2, 3, 4]
    assert len(await log.read("s", limit=10, bytes_max=1)) >= 1


async def test_sizes_are_the_bytes_of_the_content(log: EventLog) -> None:
    short, long = await log.append("s", 0, [posted("x"), posted("한" * 1_000)], ASKED)
    sizes = await log.sizes([short.position, long.position, 99, 2**70])
    assert sizes.keys() == {short.position, long.position}
    assert sizes[long.position] == sizes[short.position] + 3_000 - 1
    await log.erase("s", 2, deleted(), ASKED)
    assert await log.sizes([short.position]) == {short.position: 0}
    assert len(await log.sizes(range(1, 1_200))) == 3


async def test_the_log_is_the_same_after_it_was_closed_and_opened(stores: Stores) -> None:
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


async def test_waiters_are_told_when_the_log_closes(log: EventLog) -> None:
    waiter = asyncio.create_task(log.wait(0))
    await asyncio.sleep(0)
    await log.close()
    with pytest.raises(LogUnavailable):
        await waiter
    with pytest.raises(LogUnavailable):
        await log.wait(0)


async def test_whether_it_can_be_written_is_known_without_a_trace(log: EventLog) -> None:
    await fill(log, "a", "1")
    before = await log.rows(limit=ALL)
    await log.check_writable()
    first, _, second = await asyncio.gather(
        log.append("a", 1, [posted("2")], ASKED), log.check_writable(), log.append("a", 2, [posted("3")], ASKED)
    )
    assert (first[0].position, second[0].position) == (2, 3)
    assert (await log.rows(limit=ALL))[:1] == before
    assert (await verify(log))[1] is None


async def test_a_log_that_is_closed_cannot_be_written(log: EventLog) -> None:
    await log.close()
    with pytest.raises(LogUnavailable):
        await log.check_writable()
