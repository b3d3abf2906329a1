"""Legal holds on every store: what the registry records, whom a hold covers, and that no erasure overtakes it."""

import asyncio

import pytest

from chatbot.holds import hold_registry
from chatbot.holds.hold_registry import HoldNotFound, HoldRegistry, TooManyHolds
from events.catalogue import HOLDS, HoldAdded, HoldReleased, MetadataChanged, SessionCreated
from events.errors import VersionConflict
from events.integrity.chain_verifier import verify
from events.log import EventLog
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.sample_events import ASKED, deleted
from tests.support.log.stores import Stores


async def make(log: EventLog, session_id: str, *metadata: dict[str, object], owner: str | None = None) -> None:
    """A session with these metadata, one after the other."""
    events = [SessionCreated(owner, dict(metadata[0]), 60), *(MetadataChanged(dict(one)) for one in metadata[1:])]
    await log.append(session_id, 0, events, ASKED)


async def held_by(registry: HoldRegistry, session_id: str, owner: str | None = None) -> str | None:
    found = await registry.find(session_id, owner, {})
    return None if found.hold is None else found.hold.hold_id


async def test_a_hold_covers_its_session_its_owners_sessions_or_those_with_its_metadata(log: EventLog) -> None:
    registry = HoldRegistry(log)
    await make(log, "s1", {"user_id": 42, "team": "red"})
    await make(log, "s2", {"user_id": "7"})
    assert await held_by(registry, "s1") is None
    hold = await registry.add(HoldAdded("h1", "litigation", "LEGAL-1", session_id="s2"), ASKED)
    assert (hold.reason, hold.ticket, hold.session_id, hold.added_by) == ("litigation", "LEGAL-1", "s2", "tester")
    assert await held_by(registry, "s2") == "h1"
    await registry.add(HoldAdded("h2", "audit", owner="mina"), ASKED)
    assert await held_by(registry, "s1", "mina") == "h2"
    assert await held_by(registry, "s1", "jun") is None
    await registry.add(HoldAdded("h3", "inquiry", metadata={"user_id": "42", "team": "red"}), ASKED)
    assert await held_by(registry, "s1", "jun") == "h3"


async def test_metadata_that_a_session_had_earlier_counts_and_so_does_what_comes_after_the_hold(log: EventLog) -> None:
    registry = HoldRegistry(log)
    await registry.add(HoldAdded("h1", "inquiry", metadata={"user_id": "42"}), ASKED)
    await make(log, "later", {"user_id": "42"}, {"user_id": "43"}, {})
    await make(log, "other", {"user_id": "43"})
    assert await held_by(registry, "later") == "h1"
    assert await held_by(registry, "other") is None


async def test_a_released_hold_covers_nothing_and_can_be_forgotten(stores: Stores) -> None:
    log = await stores.open()
    registry = HoldRegistry(log)
    for name in ("h1", "h2"):
        await registry.add(HoldAdded(name, "SECRET " + name, session_id="s1"), ASKED)
    assert await registry.forget(ASKED) is None
    ended = await registry.release(HoldReleased("h1", "SECRET settled"), ASKED)
    assert ended.reason == "SECRET h1"
    with pytest.raises(HoldNotFound):
        await registry.release(HoldReleased("h1", "again"), ASKED)
    before = await registry.read()
    forgotten = await registry.forget(ASKED)
    assert forgotten is not None
    assert [row.data is None for row in await log.stream_rows(HOLDS, limit=ALL)] == [True, True, True, False]
    left = await HoldRegistry(log).read()
    assert left.holds == before.holds
    assert list(left.holds) == ["h2"]
    assert left.released == 0
    assert (await verify(log))[1] is None
    await registry.release(HoldReleased("h2", "over"), ASKED)
    assert not (await registry.read()).holds


async def test_there_are_not_more_holds_than_an_erasure_can_compare(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_registry, "HOLDS_MAX", 2)
    registry = HoldRegistry(log)
    for number in range(2):
        await registry.add(HoldAdded(f"h{number}", "x", session_id="s"), ASKED)
    with pytest.raises(TooManyHolds):
        await registry.add(HoldAdded("h2", "x", session_id="s"), ASKED)


async def test_registries_of_two_nodes_know_each_others_holds_at_once(stores: Stores) -> None:
    log = await stores.open()
    one, other = HoldRegistry(log), HoldRegistry(log)
    added = await asyncio.gather(
        *(
            node.add(HoldAdded(f"{n}{i}", "x", session_id="s"), ASKED)
            for i in range(3)
            for n, node in (("a", one), ("b", other))
        )
    )
    assert {hold.hold_id for hold in added} == {"a0", "a1", "a2", "b0", "b1", "b2"}
    assert (await one.read()).holds == (await other.read()).holds
    for hold in added:
        await other.release(HoldReleased(hold.hold_id, "x"), ASKED)
        assert hold.hold_id not in (await one.read()).holds


async def test_an_erasure_that_was_decided_before_the_hold_and_comes_after_it_is_refused(log: EventLog) -> None:
    registry = HoldRegistry(log)
    await fill(log, "s1", "evidence")
    decided = await registry.find("s1", None, {})
    assert decided.hold is None
    await registry.add(HoldAdded("h1", "litigation", session_id="s1"), ASKED)
    with pytest.raises(VersionConflict):
        await log.erase("s1", 1, deleted(), ASKED, unchanged=decided.unchanged)
    assert texts(await log.read("s1", limit=ALL)) == ["evidence"]
    await registry.release(HoldReleased("h1", "settled"), ASKED)
    decided = await registry.find("s1", None, {})
    await log.erase("s1", 1, deleted(), ASKED, unchanged=decided.unchanged)
