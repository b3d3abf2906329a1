"""What a log promises that several nodes share: each test has two of them on one database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.errors import VersionConflict
from events.integrity.chain_verifier import verify
from events.log import EventLog
from events.record import Head, StreamVersion
from events.storage.postgres import head_listener
from tests.support.log.log_texts import ALL, fill, texts
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.stores import PostgresStores, RemoteSqliteStores, Stores

Nodes = tuple[EventLog, EventLog]


@pytest.fixture(params=["sqlite-remote", pytest.param("postgres", marks=pytest.mark.real_part)])
async def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Nodes]:
    stores: Stores
    if request.param == "postgres":
        stores = PostgresStores(await request.getfixturevalue("postgres").schema())
    else:
        stores = RemoteSqliteStores(tmp_path)
    yield await asyncio.gather(stores.open(), stores.open())  # together: one of them makes the table
    await stores.close()


async def write(log: EventLog, name: str, number: int, streams: int) -> None:
    """Append `number` texts to one of few streams, deciding again whenever another writer was first."""
    for count in range(number):
        stream_id = f"s{count % streams}"
        while True:
            tail = await log.read(stream_id, limit=1, backwards=True)
            try:
                await log.append(stream_id, tail[0].version if tail else 0, [posted(f"{name}:{count}")], ASKED)
            except VersionConflict:
                continue
            break


async def follow(log: EventLog, until: int) -> list[tuple[int, str, int]]:
    """What a follower sees who wakes and reads on, a few at a time."""
    seen: list[tuple[int, str, int]] = []
    while len(seen) < until:
        after = seen[-1][0] if seen else 0
        await log.wait(after)
        seen += [(one.position, one.stream_id, one.version) for one in await log.event_headers(after=after, limit=7)]
    return seen


async def test_an_erasure_sees_what_another_node_has_just_recorded_of_its_reasons(nodes: Nodes) -> None:
    for number in range(20):
        stream_id = f"a{number}"
        await fill(nodes[0], stream_id, "text")
        added, erased = await asyncio.gather(
            nodes[1].append(f"reasons{number}", 0, [posted("keep it")], ASKED),
            nodes[0].erase(stream_id, 1, deleted(), ASKED, unchanged=StreamVersion(f"reasons{number}", 0)),
            return_exceptions=True,
        )
        assert isinstance(added, tuple)
        if isinstance(erased, VersionConflict):
            assert texts(await nodes[0].read(stream_id, limit=ALL)) == ["text"]
        else:
            assert isinstance(erased, tuple)
            assert erased[0].position < added[0].position


async def test_writers_on_two_nodes_that_race_on_few_streams_lose_and_double_nothing(nodes: Nodes) -> None:
    writers = [write(nodes[number % 2], str(number), 15, 3) for number in range(8)]
    await asyncio.gather(*writers)
    recorded = await nodes[0].read_all(limit=ALL)
    assert [event.position for event in recorded] == list(range(1, 8 * 15 + 1))
    assert sorted(str(text) for text in texts(recorded)) == sorted(f"{n}:{c}" for n in range(8) for c in range(15))
    walk, fault = await verify(nodes[1])
    assert fault is None
    assert Head(walk.position, walk.digest) == await nodes[0].latest() == await nodes[1].latest()
    assert nodes[0].is_shared


async def test_a_follower_on_each_node_sees_every_event_in_order_and_skips_none(nodes: Nodes) -> None:
    """Positions are given before the commit: where commits could overtake each other, a follower would pass by one."""
    total = 6 * 40
    followers = [asyncio.create_task(follow(node, total)) for node in nodes]
    await asyncio.gather(*(write(nodes[number % 2], str(number), 40, 5) for number in range(6)))
    async with asyncio.timeout(10):
        seen = await asyncio.gather(*followers)
    assert seen[0] == seen[1]
    assert [position for position, _, _ in seen[0]] == list(range(1, total + 1))
    for stream_id in {stream_id for _, stream_id, _ in seen[0]}:
        versions = [version for _, stream, version in seen[0] if stream == stream_id]
        assert versions == list(range(1, len(versions) + 1))


@pytest.fixture
def without_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_listener, "POLL_S", 60.0)


async def test_who_waits_on_one_node_is_woken_by_an_append_on_another(without_polls: None, nodes: Nodes) -> None:
    waiting = asyncio.create_task(nodes[1].wait(0))
    await fill(nodes[0], "a", "1")
    async with asyncio.timeout(10):
        assert await waiting == nodes[0].head()


async def test_the_latest_head_is_that_of_the_last_append_on_any_node(nodes: Nodes) -> None:
    for version in range(50):
        (recorded,) = await nodes[version % 2].append("a", version, [posted("x")], ASKED)
        asked = await asyncio.gather(*(nodes[(version + 1) % 2].latest() for _ in range(5)))
        assert {head.position for head in asked} == {recorded.position}


async def test_of_two_appends_at_one_version_on_two_nodes_one_alone_is_recorded(nodes: Nodes) -> None:
    for version in range(40):
        results = await asyncio.gather(
            *(node.append("a", version, [posted(f"{number}")], ASKED) for number, node in enumerate(nodes)),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["VersionConflict", "tuple"]
    assert (await nodes[0].latest()).position == 40


async def test_an_erasure_on_one_node_is_seen_on_the_other(nodes: Nodes) -> None:
    await fill(nodes[0], "a", "1", "2")
    assert texts(await nodes[1].read("a", limit=ALL)) == ["1", "2"]
    await nodes[1].erase("a", 2, deleted(), ASKED)
    assert [event.event for event in await nodes[0].read("a", limit=ALL)] == [None, None, deleted()]
    assert [row.data for row in await nodes[0].rows(limit=2)] == [None, None]
    assert (await verify(nodes[0]))[1] is None
    assert not nodes[1].erasure_pending
