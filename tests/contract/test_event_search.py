"""A search that follows its cursors finds exactly the events that match, on every store."""

import random
from collections.abc import Sequence

import pytest

from chatbot.audit.search.event_filter import EventFilter, SessionFilter
from chatbot.audit.search.event_search import SearchQuery, read_rows, search_events
from chatbot.audit.search.session_selection import EverySession, KnownSessions, SessionSelector, find_sessions
from chatbot.runtime.throttle import DutyCycleThrottle
from events.catalogue import Event, MetadataChanged, SessionDeleted
from events.log import EventLog
from events.record import Envelope, Metadata, RecordedEvent
from tests.support.log.event_builders import created, posted
from tests.support.log.log_texts import ALL, fill
from tests.support.log.stores import START_US, Stores

THROTTLE = DutyCycleThrottle(rest_ratio=0)
NAMES = ("mina", "jun", None)
REQUESTS = ("r1", "r2", None)


class JumpingClock:
    """A clock that is set back and forth."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def __call__(self) -> int:
        return START_US + self._random.randrange(60) * 1_000_000


async def fill_at_random(log: EventLog, source: random.Random, events: int) -> None:
    """Sessions of two owners and of none, with metadata that changes, some of them deleted."""
    versions: dict[str, int] = {}
    for _ in range(events):
        session_id = f"s{source.randrange(8)}"
        version = versions.get(session_id, 0)
        metadata = Metadata(actor=source.choice(NAMES), request_id=source.choice(REQUESTS))
        user = source.choice(("42", "43", 42))
        one: Event = posted("m")
        if version == 0:
            one = created(source.choice(NAMES), user_id=user)
        elif version > 0 and source.random() < 0.3:
            one = MetadataChanged({"user_id": user})
        elif version > 0 and source.random() < 0.1:
            await log.erase(session_id, version, SessionDeleted("requested"), metadata)
            versions[session_id] = -1_000_000
            continue
        if version >= 0:
            await log.append(session_id, version, [one], metadata)
            versions[session_id] = version + 1


def random_filter(source: random.Random) -> EventFilter:
    times = sorted(START_US + source.randrange(60) * 1_000_000 for _ in range(2))
    return EventFilter(
        since_us=source.choice((None, times[0])),
        until_us=source.choice((None, times[1])),
        types=source.choice(
            (frozenset(), frozenset({"message_posted"}), frozenset({"session_deleted", "session_created"}))
        ),
        actor=source.choice((None, None, "mina")),
        request_id=source.choice((None, None, "r1")),
    )


async def follow(
    log: EventLog, events: EventFilter, sessions: SessionSelector, limit: int, scanned_max: int
) -> list[int]:
    """The positions that the pages of a search have, from the first page to the last."""
    found: list[int] = []
    after, more = 0, True
    while more:
        query = SearchQuery(events=events, after=after, end=log.head().position, limit=limit, scanned_max=scanned_max)
        page = await search_events(log, query, sessions, THROTTLE)
        assert len(page.positions) <= limit
        assert page.next > after or not page.more, "each page goes on"
        found += page.positions
        after, more = page.next, page.more
    return found


def matches(one: RecordedEvent, events: EventFilter) -> bool:
    """The same rule, told independently."""
    return (
        (events.since_us is None or one.recorded_at_us >= events.since_us)
        and (events.until_us is None or one.recorded_at_us <= events.until_us)
        and (not events.types or one.type in events.types)
        and (events.actor is None or one.metadata.actor == events.actor)
        and (events.request_id is None or one.metadata.request_id == events.request_id)
    )


@pytest.mark.parametrize("seed", range(3))
async def test_following_the_cursor_gives_each_matching_event_once(stores: Stores, seed: int) -> None:
    source = random.Random(seed)
    stores.clock = JumpingClock(source)
    log = await stores.open()
    await fill_at_random(log, source, 60)
    every = await log.read_all(limit=ALL)
    for _ in range(12):
        events = random_filter(source)
        chosen = source.choice((None, frozenset({"s1", "s2", "no such session"})))
        selector: SessionSelector = EverySession() if chosen is None else KnownSessions(chosen)
        expected = [
            one.position for one in every if matches(one, events) and (chosen is None or one.stream_id in chosen)
        ]
        found = await follow(log, events, selector, source.choice((1, 3, 100)), source.choice((1, 7, 1000)))
        assert found == expected


async def test_sessions_are_selected_by_owner_and_by_present_or_earlier_metadata(log: EventLog) -> None:
    await log.append("a", 0, [created("mina", user_id="42"), posted("1")], Metadata())
    await log.append("b", 0, [created("mina", user_id="42"), MetadataChanged({"user_id": "43"})], Metadata())
    await log.append("c", 0, [created("jun", user_id=42)], Metadata())
    await log.append("d", 0, [created("mina", user_id="42")], Metadata())
    await log.erase("d", 1, SessionDeleted("requested", owner="mina"), Metadata())
    ids = {"user_id": "42"}
    assert await find_sessions(log, SessionFilter(metadata=ids)) == ["a", "c"]
    assert await find_sessions(log, SessionFilter(metadata=ids, ever=True)) == ["a", "b", "c"]
    assert await find_sessions(log, SessionFilter(owner="mina")) == ["a", "b", "d"], "an erased one has an owner"
    assert await find_sessions(log, SessionFilter(owner="mina", metadata=ids, ever=True)) == ["a", "b"]
    assert await find_sessions(log, SessionFilter(owner="nobody")) == []


def envelope_of(rows: Sequence[RecordedEvent]) -> list[tuple[int, str, int, str, int]]:
    return [(one.position, one.stream_id, one.version, one.type, one.recorded_at_us) for one in rows]


async def test_envelopes_are_the_events_without_their_contents(log: EventLog) -> None:
    await fill(log, "a", "1", "2")
    await log.erase("a", 2, SessionDeleted("requested"), Metadata(cause="retention"))
    found = await log.envelopes(limit=ALL)
    assert [(one.position, one.stream_id, one.version, one.type, one.recorded_at_us) for one in found] == envelope_of(
        await log.read_all(limit=ALL)
    )
    assert [one.metadata for one in found] == [row.metadata for row in await log.rows(limit=ALL)]
    assert await log.envelopes(after=1, limit=1) == found[1:2]
    assert all(isinstance(one, Envelope) for one in found)


async def test_rows_at_are_the_rows_of_these_positions_and_large_ones_come_in_pieces(log: EventLog) -> None:
    await fill(log, "a", "1", "x" * 200_000, "y" * 200_000)
    rows = await log.rows(limit=ALL)
    assert await log.rows_at([3, 1, 99, 0]) == {1: rows[0], 3: rows[2]}
    assert await log.rows_at([]) == {}
    pieces = [piece async for piece in read_rows(log, [1, 2, 3], THROTTLE)]
    assert [row for piece in pieces for row in piece] == rows
    assert len(pieces) > 1
