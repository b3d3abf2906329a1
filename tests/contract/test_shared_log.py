"""What a log promises that several nodes share: each test has two of them on one database."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.errors import VersionConflict
from events.log import EventLog
from events.postgres_head import POLL_S
from events.record import Head
from events.verify import verify
from tests.support.log_texts import ALL, fill, texts
from tests.support.sample_events import ASKED, deleted, posted
from tests.support.stores import PostgresStores, SharedSqliteStores, Stores

Nodes = tuple[EventLog, EventLog]


@pytest.fixture(params=["sqlite-shared", pytest.param("postgres", marks=pytest.mark.real_part)])
async def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Nodes]:
    stores: Stores
    if request.param == "postgres":
        stores = PostgresStores(await request.getfixturevalue("postgres").schema())
    else:
        stores = SharedSqliteStores(tmp_path)
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
        seen += [(one.position, one.stream_id, one.version) for one in await log.outlines(after=after, limit=7)]
    return seen


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


<<<<<<< HEAD
async def test_who_waits_on_one_node_is_woken_by_an_append_on_another(nodes: Nodes) -> None:
    waiting = asyncio.create_task(nodes[1].wait(0))
=======
async def test_of_two_instances_at_one_version_one_wins_and_the_other_is_told(logs: SharedLogs) -> None:
    here, there = await logs.open(0), await logs.open(1)
    results = await asyncio.gather(
        here.append("a", 0, [posted("here")], ASKED),
        there.append("a", 0, [posted("there")], ASKED),
        there.append("b", 0, [posted("neighbour")], ASKED),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["VersionConflict", "tuple", "tuple"]
    assert isinstance(results[2], tuple)
    with pytest.raises(VersionConflict):
        await there.append("a", 0, [posted("late")], ASKED)
    await there.append("a", 1, [posted("next")], ASKED)
    await here.append("a", 2, [posted("last")], ASKED)
    assert (await verify(here))[1] is None


async def test_instances_that_race_on_few_streams_lose_and_double_nothing(logs: SharedLogs) -> None:
    both = [await logs.open(0), await logs.open(1)]

    async def write(writer: int) -> None:
        log = both[writer % 2]
        for number in range(10):
            while True:
                tail = await log.read(f"s{number % 3}", limit=1, backwards=True)
                try:
                    version = tail[0].version if tail else 0
                    await log.append(f"s{number % 3}", version, [posted(f"{writer}:{number}")] * 2, ASKED)
                except VersionConflict:
                    continue
                break

    await asyncio.gather(*(write(writer) for writer in range(8)))
    recorded = await both[0].read_all(limit=ALL)
    assert [one.position for one in recorded] == list(range(1, 161))
    assert sorted(map(str, texts(recorded))) == sorted([f"{writer}:{n}" for writer in range(8) for n in range(10)] * 2)
    assert (await verify(both[1]))[1] is None


async def test_all_who_ask_for_the_head_together_share_one_look(
    logs: SharedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, looks = await logs.open(0), 0
    look = SharedHead._look

    async def counted(self: SharedHead, before: Any) -> Any:
        nonlocal looks
        looks += 1
        return await look(self, before)

    monkeypatch.setattr(SharedHead, "_look", counted)
    heads = await asyncio.gather(*(log.latest() for _ in range(200)))
    assert set(heads) == {log.head()}
    assert looks == 1


async def test_who_asks_while_a_look_is_under_way_gets_the_next_one(
    logs: SharedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await logs.open(0), await logs.open(1)
    shared = there._shared
    assert shared is not None
    ask, looked, go_on = shared._readers.ask, asyncio.Event(), asyncio.Event()

    async def held(question: Any) -> Any:
        rows = await ask(question)
        looked.set()
        await go_on.wait()
        return rows

    monkeypatch.setattr(shared._readers, "ask", held)
    early = asyncio.create_task(there.latest())
    await looked.wait()
    (recorded,) = await here.append("a", 0, [posted("x")], ASKED)
    late = asyncio.create_task(there.latest())
    await asyncio.sleep(0)
    go_on.set()
    assert (await late).position == recorded.position
    await early


async def test_an_erasure_leaves_no_text_though_others_read_and_write(logs: SharedLogs, tmp_path: Path) -> None:
    here, there = await logs.open(0), await logs.open(1)
    await here.append("secret", 0, [posted("VERYSECRET" * 50)], ASKED)
    busy = True

    async def read() -> None:
        while busy:
            await there.read_all(limit=ALL)

    async def write() -> None:
        version = 0
        while busy:
            await there.append("other", version, [posted("x" * 500)], ASKED)
            version += 1

    around = [asyncio.create_task(read()), asyncio.create_task(write())]
>>>>>>> workers
    await asyncio.sleep(0.1)
    began_s = time.monotonic()
    await fill(nodes[0], "a", "1")
    assert await waiting == nodes[0].head()
    assert time.monotonic() - began_s < POLL_S / 2, "it was found by the slow poll only"


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


<<<<<<< HEAD
async def test_an_erasure_on_one_node_is_seen_on_the_other(nodes: Nodes) -> None:
    await fill(nodes[0], "a", "1", "2")
    assert texts(await nodes[1].read("a", limit=ALL)) == ["1", "2"]
    await nodes[1].erase("a", 2, deleted(), ASKED)
    assert [event.event for event in await nodes[0].read("a", limit=ALL)] == [None, None, deleted()]
    assert [row.data for row in await nodes[0].rows(limit=2)] == [None, None]
    assert (await verify(nodes[0]))[1] is None
    assert not nodes[1].erasure_pending
=======
async def test_only_who_holds_the_lock_joins(logs: SharedLogs, tmp_path: Path) -> None:
    await logs.open(0)
    with pytest.raises(LogUnusable, match="in use"):
        await SqliteLog.open(logs.path)
    other = os.open(tmp_path / "log.db-lock", os.O_RDWR)
    with pytest.raises(LogUnusable, match="does not hold the lock"):
        DatabaseLock(logs.path).adopt(other)
    os.close(other)


async def started(script: str, *arguments: str, pass_fds: list[int] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=pass_fds or [],
        limit=2**20,
    )


async def said(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    return [json.loads(line) for line in (await process.stdout.read()).decode().splitlines()]


async def test_processes_that_race_lose_and_double_nothing_though_one_is_killed_and_one_stopped(
    logs: SharedLogs,
) -> None:
    log = await logs.open(4, OPTIONS)
    writers = [
        await started(WRITER, str(logs.path), str(slot), json.dumps(logs.descriptors), "50", pass_fds=logs.descriptors)
        for slot in range(4)
    ]
    try:
        async with asyncio.timeout(10):
            await log.wait(60)  # all are under way, or nearly
        writers[0].send_signal(signal.SIGSTOP)
        writers[1].kill()
        # Should it have been in the middle of a commit, the others are refused for as long as it is stopped.
        await asyncio.sleep(2 * OPTIONS.busy_timeout_s)
        writers[0].send_signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            told = [await said(writer) for writer in writers]
        codes = [await writer.wait() for writer in writers]
    finally:
        for writer in writers:
            if writer.returncode is None:
                writer.kill()
                await writer.wait()
    assert codes == [0, -signal.SIGKILL, 0, 0]
    await log.latest()
    recorded = await log.read_all(limit=ALL)
    assert [one.position for one in recorded] == list(range(1, len(recorded) + 1))
    assert (await verify(log))[1] is None
    there = texts(recorded)
    assert len(there) == len(set(there))
    acknowledged = {text for lines in told for text in lines} - {"unavailable"}
    assert acknowledged <= set(there)
    assert len(there) - len(acknowledged) <= 3  # of the one that was killed, whose tasks had one append each


async def test_a_stopped_process_that_has_the_turn_keeps_the_others_for_no_longer_than_the_bound(
    logs: SharedLogs,
) -> None:
    log = await logs.open(0, OPTIONS)
    holder = await started(HOLDER, str(logs.path))
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    holder.send_signal(signal.SIGSTOP)
    begun_s = time.monotonic()
    with pytest.raises(LogUnavailable, match="another process keeps it locked"):
        await log.append("a", 0, [posted("x")], ASKED)
    assert 0.9 < time.monotonic() - begun_s < 3
    assert (await log.latest()).position == 0  # reads go on
    holder.kill()
    await holder.wait()
    await log.append("a", 0, [posted("x")], ASKED)


def test_a_turn_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    turn, other = Turn(tmp_path / "log.db", 0.05), Turn(tmp_path / "log.db", 0.05)
    with turn.taken(), pytest.raises(LogUnavailable), other.taken():
        pass
    with pytest.raises(ZeroDivisionError), turn.taken():
        raise ZeroDivisionError
    with other.taken():
        pass
    turn.close()
    other.close()
>>>>>>> workers
