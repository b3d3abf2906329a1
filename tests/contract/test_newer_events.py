"""Events of a later version of the program, as this version reads them."""

import pytest

from events.catalogue import IgnoredEvent, MetadataChanged, SessionCreated
from events.codec import VERSIONS_WITH_PARTS, schema_version_of
from events.errors import LogUnusable, UnknownEvent
from events.integrity.chain_verifier import verify
from events.integrity.startup_check import check_integrity
from projections.folds.batch import fold
from projections.folds.session import evolve
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.media import put_sample_files
from tests.support.log.newer_event_types import MoodNoted, newer_program
from tests.support.log.sample_events import ASKED, EVENTS_WITH_PARTS, deleted, posted
from tests.support.log.stores import Stores


async def test_only_the_stream_that_holds_an_unknown_type_cannot_be_read(stores: Stores) -> None:
    with newer_program():
        newer = await stores.open()
        await newer.append("a", 0, [posted("1"), MoodNoted("fine")], ASKED)
        await newer.append("b", 0, [posted("2")], ASKED)
        await newer.close()
    log = await stores.open()
    with pytest.raises(UnknownEvent, match=r"does not know event type 'mood_noted'.*: update it"):
        await log.read("a", limit=ALL)
    with pytest.raises(UnknownEvent, match="mood_noted"):
        await log.read_all(limit=ALL)
    assert texts(await log.read("b", limit=ALL)) == ["2"]
    assert set(await log.read_at([1, 3])) == {1, 3}
    assert [one.type for one in await log.event_headers(limit=ALL)] == [
        "message_posted",
        "mood_noted",
        "message_posted",
    ]
    assert (await verify(log))[1] is None
    with pytest.raises(LogUnusable, match=r"newer version of this program.*mood_noted"):
        await check_integrity(log, "the log")


async def test_messages_with_parts_may_be_written_where_no_older_program_reads(stores: Stores) -> None:
    log = await stores.open()
    await put_sample_files(log)
    assert await log.admits(VERSIONS_WITH_PARTS)
    await log.append("a", 0, EVENTS_WITH_PARTS, ASKED)
    read = await log.read("a", limit=ALL)
    assert tuple(one.event for one in read) == EVENTS_WITH_PARTS
    assert [one.schema_version for one in read] == [schema_version_of(one.type, one.event) for one in read if one.event]
    assert (await verify(log))[1] is None


async def test_a_newer_schema_version_of_a_known_type_is_unknown_too(stores: Stores) -> None:
    with newer_program(metadata_changed=2):
        newer = await stores.open()
        await newer.append("a", 0, [MetadataChanged({})], ASKED)
        await newer.close()
    log = await stores.open()
    with pytest.raises(UnknownEvent, match="'metadata_changed' with schema version 2"):
        await log.read("a", limit=ALL)


async def test_an_event_that_says_so_is_passed_over(stores: Stores) -> None:
    with newer_program(is_ignorable=True):
        newer = await stores.open()
        await newer.append("a", 0, [SessionCreated("alice", {}, 60)], ASKED)
        (mood,) = await newer.append("a", 1, [MoodNoted("fine")], ASKED)
        assert mood.metadata.ignorable
        await newer.append("a", 2, [posted("2")], ASKED)
        await newer.close()
    log = await stores.open()
    history = await log.read("a", limit=ALL)
    assert [one.event for one in history[1:]] == [IgnoredEvent(), posted("2")]
    assert history == await log.read_all(limit=ALL)
    await check_integrity(log, "the log")
    assert (await verify(log))[1] is None
    session = None
    for recorded in history:
        session = evolve(session, recorded)
    assert session is not None
    assert (session.version, session.owner, session.message_count) == (3, "alice", 1)
    assert [one.session for one in fold(history, {}, b"key").sessions] == [session]
    await log.erase("a", 3, deleted(), ASKED)
    assert [one.event for one in await log.read("a", limit=ALL)] == [None, None, None, deleted()]


async def test_an_event_that_may_be_passed_over_does_not_lend_that_to_others(stores: Stores) -> None:
    with newer_program(is_ignorable=True):
        log = await stores.open()
        with pytest.raises(ValueError, match="by themselves"):
            await log.append("a", 0, [posted("1"), MoodNoted("fine")], ASKED)
        await fill(log, "a", "1")
    assert not (await log.read("a", limit=ALL))[0].metadata.ignorable
