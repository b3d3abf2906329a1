"""The newest events of a log in memory: the same as in the file, bounded, and never with content that is erased."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from events.catalogue import MessageRedacted
from events.log import EventLog
from events.storage import newest_events
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_service import LogService
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_LIVING_EVENT, RESERVED_EVENTS, deleted, posted


@pytest.fixture
async def log(tmp_path: Path) -> EventLog:
    return await SqliteLog.open(tmp_path / "log.db")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[LogService]:
    service = LogService(tmp_path / "log.db")
    yield service
    await service.close()


def kept_in_memory(log: EventLog, after: int = 0) -> int:
    """How many events after a position come from memory."""
    assert isinstance(log, SqliteLog)
    assert log._write_side is not None
    return len(log._write_side.store.newest.after(after, ALL) or ())


async def test_they_are_what_the_file_has(log: EventLog, tmp_path: Path) -> None:
    await put_sample_files(log)
    recorded = tuple(event for event in EVERY_LIVING_EVENT if not isinstance(event, MessageRedacted))
    for stream_id, events in {"s": recorded, **RESERVED_EVENTS}.items():
        for version, event in enumerate(events):
            await log.append(stream_id, version, [event], ASKED)
    position = log.head().position
    assert kept_in_memory(log) == position
    file = await SqliteLog.open(tmp_path / "log.db", read_only=True)
    for after, limit in ((0, ALL), (3, 5), (position - 1, ALL), (position, ALL)):
        assert await log.read_all(after=after, limit=limit) == await file.read_all(after=after, limit=limit)
    await file.close()
    await log.close()


async def test_they_have_what_other_processes_have_appended_through_this_one(service: LogService) -> None:
    log, client = await service.start(), await service.connect()
    await put_sample_files(client)
    recorded = tuple(event for event in EVERY_LIVING_EVENT if not isinstance(event, MessageRedacted))
    for version, event in enumerate(recorded):
        await (log if version % 5 == 2 else client).append("s", version, [event], ASKED)
    await client.append("t", 0, [posted("1"), posted("2")], ASKED)
    assert kept_in_memory(log) == log.head().position == len(recorded) + 2
    assert await log.read_all(limit=ALL) == await client.read_all(limit=ALL)
    await client.erase("s", len(recorded), deleted(), ASKED)
    assert kept_in_memory(log) == 0
    await client.append("t", 2, [posted("3")], ASKED)
    assert kept_in_memory(log, after=log.head().position - 1) == 1
    assert await log.read_all(limit=ALL) == await client.read_all(limit=ALL)


async def test_they_are_read_from_any_position_in_any_batch(log: EventLog) -> None:
    await log.append("a", 0, [posted("1"), posted("2"), posted("3")], ASKED)
    await fill(log, "b", "4")
    await log.append("c", 0, [posted("5"), posted("6")], ASKED)
    everything = ["1", "2", "3", "4", "5", "6"]
    for after in range(6):
        assert kept_in_memory(log, after) == 6 - after
        for limit in range(1, 8):
            assert texts(await log.read_all(after=after, limit=limit)) == everything[after : after + limit]
    await log.close()


async def test_the_newest_are_reached_without_a_walk_through_the_others(log: EventLog) -> None:
    await fill(log, "a", *map(str, range(40)))
    assert isinstance(log, SqliteLog)
    assert log._write_side is not None
    newest = log._write_side.store.newest
    for number in range(38):
        newest._batches[number] = (_Unreadable(newest._batches[number][0]), 0)
    assert texts(newest.after(38, ALL) or []) == ["38", "39"]
    await log.close()


class _Unreadable(list[Any]):
    """The events of a batch at which nobody may look."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("looked at")


async def test_a_reader_that_is_far_behind_reads_the_file(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest_events, "EVENTS_MAX", 3)
    await fill(log, "a", "1", "2", "3", "4")
    await fill(log, "b", "5")
    assert (kept_in_memory(log), kept_in_memory(log, after=4)) == (0, 1)
    assert texts(await log.read_all(limit=ALL)) == ["1", "2", "3", "4", "5"]
    monkeypatch.setattr(newest_events, "BYTES_MAX", 300)
    await fill(log, "c", "6", "7" * 1000)
    assert kept_in_memory(log, after=5) == 0
    assert texts(await log.read_all(after=5, limit=1)) == ["6"]
    await log.close()


@pytest.mark.parametrize("finished_later", [False, True])
async def test_after_an_erasure_nothing_of_before_is_in_memory(log: EventLog, *, finished_later: bool) -> None:
    await fill(log, "a", "gone")
    await fill(log, "b", "kept")
    if finished_later:
        await log.append("a", 1, [deleted()], ASKED)
        await log.finish_erasure("a", 2)
    else:
        await log.erase("a", 1, deleted(), ASKED)
    assert kept_in_memory(log) == 0
    await log.append("b", 1, [posted("after")], ASKED)
    assert kept_in_memory(log, after=3) == 1
    events = await log.read_all(limit=ALL)
    assert [one.event for one in events] == [None, posted("kept"), deleted(), posted("after")]
    await log.close()


async def test_a_closed_log_gives_none(log: EventLog) -> None:
    await fill(log, "a", "1")
    await log.close()
    assert kept_in_memory(log) == 0
