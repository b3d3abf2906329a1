"""Content before the event that erases it: found by verify and at start, and erased for good when that is asked for."""

import asyncio

import pytest

from events.catalogue import Event
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.incomplete_erasures import IncompleteErasure, find_incomplete_erasure, finish_erasure
from events.integrity.startup_check import check_integrity
from events.log import EventLog
from events.record import Head, StoredRow
from tests.support.log.event_builders import emptied
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.sample_events import ASKED, deleted, posted


async def left(log: EventLog, stream_id: str, event: Event, *contents: str) -> None:
    """A stream with `contents` and then `event`, without its erasure: as version 0.4 could copy it."""
    await fill(log, stream_id, *contents)
    await log.append(stream_id, len(contents), [event], ASKED)


async def found(log: EventLog, walk: ChainVerifier | None = None) -> list[IncompleteErasure]:
    walk, fault = await verify(log, walk)
    assert fault is None
    return walk.incomplete_erasures


async def test_content_before_a_deletion_is_found_by_verify_and_at_start(log: EventLog) -> None:
    await fill(log, "gone", "1", "2")
    await log.erase("gone", 2, deleted(), ASKED)
    await fill(log, "open", "3")
    assert await found(log) == await check_integrity(log, "here") == []
    await left(log, "a", deleted(), "one", "two")
    await left(log, "b", emptied(), "three")
    await log.append("b", 2, [posted("after")], ASKED)
    wanted = [IncompleteErasure("a", 5, 3), IncompleteErasure("b", 8, 2)]
    assert await found(log) == wanted
    assert await check_integrity(log, "here") == wanted
    assert [await find_incomplete_erasure(log, name) for name in ("gone", "open", "a", "b", "none")] == [
        None,
        None,
        *wanted,
        None,
    ]


async def test_a_partial_walk_finds_what_it_has_passed(log: EventLog) -> None:
    await fill(log, "whole", "0", "1")
    await left(log, "a", deleted(), "one", "two")
    await log.erase("whole", 2, deleted(), ASKED)
    digests = [row.digest for row in await log.rows(limit=ALL)]
    assert await found(log, ChainVerifier(start=Head(1, digests[0]))) == [IncompleteErasure("a", 3, 3)]
    assert await found(log, ChainVerifier(start=Head(3, digests[2]))) == [IncompleteErasure("a", 3, 3)]
    assert await found(log, ChainVerifier(start=Head(5, digests[4]))) == []
    assert (await verify(log, ChainVerifier(), until=4))[0].incomplete_erasures == [], "the deletion lies beyond"


async def test_finishing_an_erasure_erases_what_precedes_it_and_nothing_else(log: EventLog) -> None:
    await left(log, "a", deleted(), "one", "two")
    await fill(log, "b", "other")
    rows = await log.rows(limit=ALL)
    assert await finish_erasure(log, "a")
    after = await log.rows(limit=ALL)
    assert [(row.data, row.salt) for row in after[:2]] == [(None, None)] * 2
    assert after[2:] == rows[2:]
    assert [row.digest for row in after] == [row.digest for row in rows]
    assert (await log.read("a", limit=ALL))[-1].event == deleted()
    async with asyncio.timeout(30):
        while log.erasure_pending:  # a VACUUM waits for older transactions, whosever they are
            await asyncio.sleep(0.01)
    assert await found(log) == []
    assert not await finish_erasure(log, "a"), "there is nothing left to do"
    await log.append("b", 1, [posted("goes on")], ASKED)
    assert texts(await log.read("b", limit=ALL)) == ["other", "goes on"]


async def test_nothing_is_erased_that_no_event_explains(log: EventLog) -> None:
    await left(log, "a", deleted(), "one")
    await fill(log, "b", "1", "2")
    for stream_id, version in (("a", 1), ("a", 3), ("b", 2), ("none", 1)):
        with pytest.raises(ValueError, match="does not explain"):
            await log.finish_erasure(stream_id, version)
    assert not await finish_erasure(log, "b")
    assert all(row.data is not None for row in await log.rows(limit=ALL))


async def test_a_deletion_during_a_walk_is_no_leftover(log: EventLog) -> None:
    """The walk has passed the content, and finds the event that erases it."""
    await fill(log, "a", "1", "2")
    await fill(log, "b", "3")
    walk = ChainVerifier()
    rows: list[StoredRow] = await log.rows(limit=2)
    for row in rows:
        assert walk.check(row) is None
    await log.erase("a", 2, deleted(), ASKED)
    walk, fault = await verify(log, walk)
    assert (fault, walk.suspected_streams, walk.incomplete_erasures) == (None, {"a"}, [])
