"""What a process is told of the streams that it holds: every event that others append, whatever happens when."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from events.catalogue import HOLDS, HoldAdded
from events.log import EventLog
from events.record import EventHeader
from tests.support.log.log_texts import fill
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.stores import PostgresStores, RemoteSqliteStores, SqliteStores, Stores

Nodes = tuple[EventLog, EventLog]
GIVE_UP_S = 20.0
STREAMS = [f"s{number}" for number in range(4)]


@pytest.fixture(params=["sqlite-remote", pytest.param("postgres", marks=pytest.mark.real_part)])
async def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Nodes]:
    stores: Stores
    if request.param == "postgres":
        stores = PostgresStores(await request.getfixturevalue("postgres").schema())
    else:
        stores = RemoteSqliteStores(tmp_path)
    yield await asyncio.gather(stores.open(), stores.open())
    await stores.close()


class Follower:
    """Holds streams of one log, and knows their versions by nothing else than what it is told.

    `gaps`: versions that were reported after others had been left out, by stream: on_held of the newest hold, which may
    come later, has to cover them.
    """

    def __init__(self, log: EventLog) -> None:
        self.known: dict[str, int] = {}  # of a stream whose hold is in force
        self.headers: list[EventHeader] = []
        self.gaps: dict[str, int] = {}
        self._log = log
        self._held: set[str] = set()
        log.listen(self)

    def hold(self, stream_id: str) -> None:
        self._held.add(stream_id)
        self._log.hold(stream_id)

    def release(self, stream_id: str) -> None:
        self._held.discard(stream_id)
        self.known.pop(stream_id, None)
        self.gaps.pop(stream_id, None)
        self._log.release(stream_id)

    def on_appended(self, headers: Sequence[EventHeader]) -> None:
        self.headers += headers
        for one in headers:
            known = self.known.get(one.stream_id)
            if known is None:
                continue
            if one.version > known + 1:
                self.gaps[one.stream_id] = one.version
            self.known[one.stream_id] = max(known, one.version)

    def on_held(self, stream_id: str, version: int) -> None:
        if stream_id in self._held:
            self.known[stream_id] = max(version, self.known.get(stream_id, 0))
            if version >= self.gaps.get(stream_id, version) - 1:
                self.gaps.pop(stream_id, None)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while not reached():
            await asyncio.sleep(0.001)


async def test_a_hold_names_the_streams_version_and_what_follows_is_reported(nodes: Nodes) -> None:
    await fill(nodes[0], "a", "1", "2")
    follower = Follower(nodes[1])
    follower.hold("a")
    follower.hold("not there")
    await until(lambda: follower.known == {"a": 2, "not there": 0})
    first = await nodes[0].append("a", 2, [posted("3"), posted("4")], ASKED)
    second = await nodes[0].append("not there", 0, [posted("1")], ASKED)
    await until(lambda: follower.known == {"a": 4, "not there": 1})
    wanted = [EventHeader(one.position, one.stream_id, one.version, one.type) for one in (*first, *second)]
    assert [one for one in follower.headers if one.version > 2 or one.stream_id != "a"] == wanted


async def test_a_stream_that_is_not_held_is_not_reported(nodes: Nodes) -> None:
    follower = Follower(nodes[1])
    follower.hold("held")
    follower.hold("released")
    await until(lambda: len(follower.known) == 2)
    follower.release("released")
    await fill(nodes[0], "other", "1", "2")
    await fill(nodes[0], "held", "1")
    await until(lambda: follower.known == {"held": 1})
    assert {one.stream_id for one in follower.headers} == {"held"}


async def test_a_stream_that_is_held_again_is_said_to_be_held_once_more(nodes: Nodes) -> None:
    follower = Follower(nodes[1])
    for version in range(5):
        follower.hold("a")
        await until(lambda version=version: follower.known == {"a": version})  # type: ignore[misc]
        if version % 2:
            follower.release("a")
        await nodes[0].append("a", version, [posted("x")], ASKED)
    follower.hold("a")
    await until(lambda: follower.known == {"a": 5})


async def test_every_process_is_told_of_removed_content_and_of_reserved_streams(nodes: Nodes) -> None:
    followers = [Follower(nodes[0]), Follower(nodes[1])]
    await fill(nodes[0], "a", "1")
    await nodes[0].erase("a", 1, deleted(), ASKED)
    await nodes[0].append(HOLDS, 0, [HoldAdded("h", "a reason")], ASKED)
    await until(lambda: "hold_added" in [one.type for one in followers[1].headers])
    told = {(one.stream_id, one.type) for one in followers[1].headers}
    assert told == {("a", "session_deleted"), (HOLDS, "hold_added")}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_held_and_released_meanwhile_no_event_of_a_held_stream_is_missed(
    nodes: Nodes, seed: int
) -> None:
    choose = random.Random(seed)
    versions = dict.fromkeys(STREAMS, 0)
    followers = [Follower(node) for node in nodes]
    held: list[set[str]] = [set(), set()]

    async def write(number: int) -> None:
        for _ in range(40):
            stream_id = STREAMS[2 * number + choose.randrange(2)]  # each its own: no conflicts
            events = [posted("x")] * choose.randint(1, 3)
            recorded = await nodes[number].append(stream_id, versions[stream_id], events, ASKED)
            versions[stream_id] = recorded[-1].version

    async def hold(number: int) -> None:
        others = STREAMS[2:] if number == 0 else STREAMS[:2]
        for _ in range(30):
            stream_id = choose.choice(others)
            if choose.random() < 0.6:
                held[number].add(stream_id)
                followers[number].hold(stream_id)
            else:
                held[number].discard(stream_id)
                followers[number].release(stream_id)
            await asyncio.sleep(choose.choice((0, 0, 0.001, 0.003)))

    await asyncio.gather(write(0), write(1), hold(0), hold(1))
    for number, follower in enumerate(followers):
        wanted = {stream_id: versions[stream_id] for stream_id in held[number]}
        await until(lambda follower=follower, wanted=wanted: follower.known == wanted)  # type: ignore[misc]
        await until(lambda follower=follower: not follower.gaps)  # type: ignore[misc]


async def test_a_log_that_no_other_process_writes_reports_nothing(tmp_path: Path) -> None:
    stores = SqliteStores(tmp_path)
    log = await stores.open()
    follower = Follower(log)
    follower.hold("a")
    await fill(log, "a", "1", "2")
    follower.release("a")
    await stores.close()
    assert not follower.headers
