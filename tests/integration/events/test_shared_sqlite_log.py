"""What a log promises to which several instances append: here two in one process, then processes of their own."""

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from events.errors import LogUnavailable, LogUnusable, VersionConflict
from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.database_lock import DatabaseLock
from events.storage.sqlite import head_poller, wal
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_texts import ALL, texts
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.shared_log import SharedLogs

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = LogOptions(busy_timeout_s=1.0)
WRITER = """
import asyncio, json, sys
from events.errors import LogUnavailable, VersionConflict
from events.options import LogOptions
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.sample_events import ASKED, posted
from tests.support.log.shared_log import inherited

async def write(path, slot, descriptors, times):
    log = await SqliteLog.open(path, LogOptions(busy_timeout_s=1.0), notifier=inherited(descriptors, slot))
    print(json.dumps("open"), flush=True)
    sys.stdin.readline()
    async def one(task):
        number = 0
        while number < times:
            stream_id = f"s{(slot + number) % 3}"
            tail = await log.read(stream_id, limit=1, backwards=True)
            try:
                await log.append(stream_id, tail[0].version if tail else 0, [posted(f"{slot}:{task}:{number}")], ASKED)
            except VersionConflict:
                continue
            except LogUnavailable:
                print(json.dumps("unavailable"), flush=True)
                continue
            print(json.dumps(f"{slot}:{task}:{number}"), flush=True)
            number += 1
    await asyncio.gather(*(one(task) for task in range(3)))
    await log.close()

asyncio.run(write(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])))
"""
HOLDER = """
import sys, time
from pathlib import Path
from events.storage.sqlite.write_lock import WriteLock
with WriteLock(Path(sys.argv[1]), 1.0).held():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[SharedLogs]:
    shared = SharedLogs(tmp_path / "log.db", slots=5)
    yield shared
    await shared.close()


async def test_what_one_has_appended_the_other_finds_at_once_and_is_woken_by(logs: SharedLogs) -> None:
    here, there = await logs.open(0), await logs.open(1)
    assert here.is_shared
    waiting = asyncio.create_task(there.wait(0))
    (recorded,) = await here.append("a", 0, [posted("1")], ASKED)
    assert (await there.latest()).position == recorded.position
    assert texts(await there.read("a", limit=ALL)) == ["1"]
    async with asyncio.timeout(0.5):  # half of what the slow poll takes
        assert (await waiting) == here.head()


async def test_a_wake_up_takes_milliseconds_not_a_poll(logs: SharedLogs) -> None:
    here, there = await logs.open(0), await logs.open(1)
    waited_s = []
    for version in range(50):
        waiting = asyncio.create_task(there.wait(version))
        await asyncio.sleep(0)
        await here.append("a", version, [posted("x")], ASKED)
        recorded_s = time.monotonic()
        await waiting
        waited_s.append(time.monotonic() - recorded_s)
    assert statistics.median(waited_s) < 0.05


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
    monkeypatch.setattr(head_poller, "POLL_S", 60.0)  # nobody else looks
    log, looks = await logs.open(0), 0
    run = log._pool.run

    async def counted(call: Any) -> Any:
        nonlocal looks
        looks += 1
        return await run(call)

    monkeypatch.setattr(log._pool, "run", counted)
    heads = await asyncio.gather(*(log.latest() for _ in range(200)))
    assert set(heads) == {log.head()}
    assert looks == 1


async def test_who_asks_while_a_look_is_under_way_gets_the_next_one(
    logs: SharedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await logs.open(0), await logs.open(1)
    shared = there._head_poller
    assert shared is not None
    run, looked, go_on = shared._pool.run, asyncio.Event(), asyncio.Event()

    async def held(call: Any) -> Any:
        rows = await run(call)
        looked.set()
        await go_on.wait()
        return rows

    monkeypatch.setattr(shared._pool, "run", held)
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
    await asyncio.sleep(0.1)
    assert texts(await there.read("secret", limit=ALL))
    await here.erase("secret", 1, deleted(), ASKED)
    assert not here.erasure_pending
    assert b"VERYSECRET" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    busy = False
    await asyncio.gather(*around)


async def test_the_write_ahead_log_stays_short_with_each_writer(
    logs: SharedLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "NEW_PAGES", 100)
    monkeypatch.setattr(wal, "TAIL_PAGES", 30)
    both = [await logs.open(slot, LogOptions(wal_limit_bytes=2000 * 4096)) for slot in (0, 1)]
    longest = 0

    async def write(writer: int) -> None:
        nonlocal longest
        for version in range(150):
            await both[writer % 2].append(f"s{writer}", version, [posted("x" * 3000)], ASKED)
            longest = max(longest, (tmp_path / "log.db-wal").stat().st_size // 4096)

    await asyncio.gather(*(write(writer) for writer in range(8)))
    assert longest < 2000
    assert (await verify(both[0]))[1] is None


async def test_a_full_socket_of_wake_ups_troubles_nobody(logs: SharedLogs) -> None:
    here = await logs.open(0)  # nobody listens in the other slots
    for version in range(500):
        await here.append("a", version, [posted("x")], ASKED)
    assert here.failure is None
    assert (await (await logs.open(1)).latest()) == here.head()


async def test_only_who_holds_the_lock_joins(logs: SharedLogs, tmp_path: Path) -> None:
    await logs.open(0)
    with pytest.raises(LogUnusable, match="in use"):
        await SqliteLog.open(logs.path)
    other = os.open(tmp_path / "log.db-lock", os.O_RDWR)
    with pytest.raises(LogUnusable, match="do not hold the lock"):
        DatabaseLock(logs.path).adopt((other,))
    os.close(other)


async def started(script: str, *arguments: str, pass_fds: list[int] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
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
        await started(WRITER, str(logs.path), str(slot), json.dumps(logs.descriptors), "200", pass_fds=logs.descriptors)
        for slot in range(4)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert json.loads(await writer.stdout.readline()) == "open"
        for writer in writers:
            writer.stdin.write(b"go\n")  # type: ignore[union-attr]  # a pipe
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
    assert 0.9 < time.monotonic() - begun_s < 10
    assert (await log.latest()).position == 0  # reads go on
    holder.kill()
    await holder.wait()
    await log.append("a", 0, [posted("x")], ASKED)
