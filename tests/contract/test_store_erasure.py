"""What every store promises of erasure: the content goes, the record stays."""

import asyncio

import pytest

from events.errors import VersionConflict
from events.integrity.chain_verifier import verify
from events.log import EventLog
from events.record import StreamVersion
from tests.support.log.event_builders import emptied
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.sample_events import ASKED, deleted, posted


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
    await log.erase("a", 1, emptied(), ASKED)
    await log.append("a", 2, [posted("2")], ASKED)
    await log.erase("a", 3, deleted(), ASKED)
    assert [event.event for event in await log.read("a", limit=ALL)] == [None, None, None, deleted()]
    assert (await verify(log))[1] is None


async def test_an_erasure_at_another_version_conflicts_and_erases_nothing(log: EventLog) -> None:
    await fill(log, "a", "1", "2")
    with pytest.raises(VersionConflict):
        await log.erase("a", 1, deleted(), ASKED)
    assert texts(await log.read("a", limit=ALL)) == ["1", "2"]


async def test_an_erasure_whose_reasons_have_changed_in_the_log_conflicts_and_erases_nothing(log: EventLog) -> None:
    await fill(log, "a", "1")
    await fill(log, "reasons", "1", "2")
    for seen in (StreamVersion("reasons", 1), StreamVersion("reasons", 3), StreamVersion("none", 1)):
        with pytest.raises(VersionConflict):
            await log.erase("a", 1, deleted(), ASKED, unchanged=seen)
    assert texts(await log.read("a", limit=ALL)) == ["1"]
    await log.erase("a", 1, deleted(), ASKED, unchanged=StreamVersion("reasons", 2))
    await fill(log, "b", "1")
    await log.erase("b", 1, deleted(), ASKED, unchanged=StreamVersion("none", 0))
    assert [one.event for one in await log.read("a", limit=ALL)] == [None, deleted()]
    assert (await verify(log))[1] is None


async def test_of_an_erasure_and_a_change_of_its_reasons_that_wait_together_the_first_wins(log: EventLog) -> None:
    await fill(log, "a", "1")
    await fill(log, "b", "1")
    results = await asyncio.gather(
        log.erase("a", 1, deleted(), ASKED, unchanged=StreamVersion("reasons", 0)),
        log.append("reasons", 0, [posted("changed")], ASKED),
        log.erase("b", 1, deleted(), ASKED, unchanged=StreamVersion("reasons", 0)),
        return_exceptions=True,
    )
    assert [isinstance(result, VersionConflict) for result in results] == [False, False, True]
    assert texts(await log.read("b", limit=ALL)) == ["1"]


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
