"""The command rebuild: interrupted at any time, and under a running service."""

import asyncio
import errno
import json
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast

import httpx
import pytest

from chatbot.cli.remedies import with_remedy
from events.catalogue import SessionAccessed
from events.factory import open_log
from events.log import EventLog, NotifyingLog
from events.record import Head, Metadata
from projections.errors import LogReplaced, ProjectionLag, ProjectionsInUse, ProjectionsUnavailable, ProjectionsUnusable
from projections.factory import create_runner
from projections.runner import ProjectionRunner, RunnerOptions
from projections.sqlite import rebuild as rebuilt
from projections.sqlite import rebuild_process, sqlite_file
from projections.sqlite.projection_paths import PathLock, ready_path, temporary_path
from projections.sqlite.read_connection import ReadConnection
from projections.sqlite.rebuild import rebuild
from projections.sqlite.rebuild_child import REST, RebuildThrottle
from projections.sqlite.rebuild_process import rebuild_in_subprocess
from tests.support.command_processes import log_digest, run_command, running_command
from tests.support.log.event_builders import created, turn, turns
from tests.support.log.memory_log import MemoryLog
from tests.support.model.model_server import ModelServer
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import program
from tests.support.sessions.projection_harness import RecordingObserver, contents, follow, running

OPEN = {"CHATBOT_AUTH_ALLOW_ANONYMOUS": "true"}  # the logs of these tests have sessions of API keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "projections.db"


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    for name in "abc":
        log.record(name, created("alice", topic=name), *turns(60))
    return log


def quiet(_position: int) -> None: ...


def left_behind(path: Path) -> set[str]:
    """The other files in its folder, without locks and SQLite's own."""
    return {
        file.name
        for file in path.parent.glob("projections.db?*")
        if not file.name.endswith(("-lock", "db-wal", "db-shm"))
    }


async def test_the_file_is_the_same_as_one_that_followed_the_log(path: Path, log: MemoryLog) -> None:
    followed, seen = path.with_name("followed.db"), list[int]()
    await follow(followed, log)
    head = log.head().position
    assert await rebuild(log, path, 50, seen.append) == (head, True)
    assert contents(path) == contents(followed)
    assert (seen[0], seen[-1], left_behind(path)) == (50, head, set())
    log.record("a", SessionAccessed())
    told = await follow(path, log)
    assert (told.batches, told.reasons) == ([1], [])


async def test_it_ends_while_the_log_goes_on(path: Path, log: MemoryLog) -> None:
    """With each batch comes another event: to wait for the end of that would be to wait for the clients to rest."""
    end = log.head().position

    def goes_on(_position: int) -> None:
        log.record("a", SessionAccessed())

    async with asyncio.timeout(60):
        reached, in_place = await rebuild(log, path, 50, goes_on)
    assert (reached >= end, in_place) == (True, True)
    assert reached - end < end // 50 + 2, "all that had come by the last batch"


async def test_a_file_that_lies_is_replaced(path: Path, log: MemoryLog) -> None:
    await follow(path, log)
    before = contents(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE messages SET parent_id = 'wrong'")
        connection.commit()
    await rebuild(log, path, 50, quiet)
    assert contents(path) == before


async def test_interrupted_it_leaves_everything_as_it_was(path: Path, log: MemoryLog) -> None:
    await follow(path, log)
    before = path.read_bytes()
    reached = asyncio.Event()
    rebuilding = asyncio.create_task(rebuild(log, path, 10, lambda at: reached.set() if at > 100 else None))
    await reached.wait()
    rebuilding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rebuilding
    assert (path.read_bytes(), left_behind(path)) == (before, set())
    assert await rebuild(log, path, 50, quiet) == (log.head().position, True)


async def test_all_of_it_is_on_the_disk_before_it_takes_a_place(
    path: Path, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follow(path, log)
    before, reached, flush, pieces = path.read_bytes(), list[int](), sqlite_file.flush, list[tuple[int, int]]()

    def seen(file: Path, start: int, size: int) -> None:
        assert (file, path.read_bytes(), reached[-1]) == (temporary_path(path), before, log.head().position)
        flush(file, start, size)
        pieces.append((start, size))

    monkeypatch.setattr(sqlite_file, "flush", seen)
    monkeypatch.setattr(rebuilt, "FLUSH_BYTES", 3 * 4096)
    await rebuild(log, path, 50, reached.append)
    assert [start for start, _ in pieces] == list(range(0, path.stat().st_size, 3 * 4096))
    assert sum(size for _, size in pieces) == path.stat().st_size


async def test_a_disk_that_fails_leaves_everything_as_it_was(
    path: Path, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follow(path, log)
    before = path.read_bytes()

    def failing(_file: Path, _start: int, _size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sqlite_file, "flush", failing)
    with pytest.raises(OSError, match="Input/output error"):
        await rebuild(log, path, 50, quiet)
    assert (path.read_bytes(), left_behind(path)) == (before, set())


async def test_what_a_kill_left_behind_is_not_built_upon(path: Path, log: MemoryLog) -> None:
    other = MemoryLog(b"another")
    other.record("x", created())
    await follow(temporary_path(path), other)
    await rebuild(log, path, 50, quiet)
    assert {row[1] for row in contents(path)["sessions"]} == {"a", "b", "c"}
    assert left_behind(path) == set()


async def test_one_rebuild_at_a_time(path: Path, log: MemoryLog) -> None:
    lock = PathLock(temporary_path(path))
    with pytest.raises(ProjectionsInUse):
        await rebuild(log, path, 50, quiet)
    lock.release()


async def test_projections_that_know_more_than_the_log_are_kept_as_evidence(path: Path, log: MemoryLog) -> None:
    await follow(path, log)
    before, older = contents(path), MemoryLog()
    older.record("a", created("alice", topic="a"))
    with pytest.raises(LogReplaced) as refused:
        await rebuild(older, path, 50, quiet)
    assert "restore a backup" in with_remedy(refused.value)
    assert (contents(path), left_behind(path)) == (before, set())


@pytest.mark.parametrize("content", [b"a note that someone left here", b"SQLite format 3\0" + bytes(100)])
async def test_nothing_but_projections_is_replaced(path: Path, log: MemoryLog, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ProjectionsUnusable, match="holds no projections"):
        await rebuild(log, path, 50, quiet)
    assert path.read_bytes() == content


async def test_the_runner_goes_on_with_the_new_file_and_every_read_meanwhile_is_right(
    path: Path, log: MemoryLog
) -> None:
    told, wrong, stop = RecordingObserver(), list[str](), asyncio.Event()

    async def read(one: int) -> None:
        """Each read waits for what was recorded before it, and must find that, whichever file answers."""
        while not stop.is_set():
            position, sessions = log.head().position, len({event.stream_id for event in log.events})
            await runner.wait_for(position, timeout_s=10)
            counts = await runner.queries.counts()
            if counts.get("active", 0) < sessions:
                wrong.append(f"reader {one}: {counts} at {position}, after {sessions} sessions")
            await asyncio.sleep(0)

    async with running(path, log, told) as runner:
        await runner.wait_for(log.head().position, timeout_s=10)
        reading = [asyncio.create_task(read(one)) for one in range(4)]
        for times in range(1, 6):
            assert await rebuild(log, path, 50, quiet) == (log.head().position, False)
            for n in range(70):  # more than a batch, which the new file has not folded
                log.record(f"s{times}-{n}", created(), *turn(1))
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                while len(told.adoptions) < times:
                    await asyncio.sleep(0.005)
        stop.set()
        await asyncio.gather(*reading)
        await runner.wait_for(log.head().position, timeout_s=10)
    assert (wrong, told.reasons, told.failures, runner.failure) == ([], [], [], None)
    assert left_behind(path) == set()
    fresh = path.with_name("fresh.db")
    await follow(fresh, log)
    assert contents(path) == contents(fresh)


async def test_an_offer_made_while_nobody_looked_is_taken_at_the_next_start(path: Path, log: MemoryLog) -> None:
    async with running(path, log) as runner:
        await runner.wait_for(log.head().position, timeout_s=10)
        await rebuild(log, path, 50, quiet)
        assert ready_path(path).exists()
    log.record("a", SessionAccessed())
    told = await follow(path, log)
    assert (len(told.adoptions), told.reasons, left_behind(path)) == (1, [], set())


@pytest.mark.parametrize("how", ["of another log", "damaged", "another program's"])
async def test_an_offer_that_does_not_fit_is_refused_and_the_present_file_stays(
    path: Path, log: MemoryLog, how: str
) -> None:
    if how == "of another log":
        other = MemoryLog(b"another")
        other.record("x", created())
        await rebuild(other, ready_path(path), 50, quiet)
    elif how == "damaged":
        ready_path(path).write_bytes(b"this was a file once" * 300)
    else:
        with closing(sqlite3.connect(ready_path(path))) as connection:
            connection.execute("CREATE TABLE theirs (a)")
            connection.commit()
    told = await follow(path, log)
    assert ["of no use" in str(failure) for failure in told.failures] == [True]
    assert (told.adoptions, told.reasons) == ([], [])
    await follow(path.with_name("fresh.db"), log)
    assert contents(path) == contents(path.with_name("fresh.db"))


async def test_queries_wait_while_a_file_takes_anothers_place_but_not_for_ever(
    path: Path, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follow(path, log)
    reader = ReadConnection(path, lambda _: None)
    await reader.open()
    await reader.pause()
    waiting = asyncio.create_task(reader.rows("SELECT count(*) FROM sessions"))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await reader.open()
    assert await waiting == [(3,)]
    monkeypatch.setattr("projections.sqlite.read_connection.PAUSE_MAX_S", 0.02)
    await reader.pause()
    with pytest.raises(ProjectionsUnavailable):
        await reader.rows("SELECT 1")
    refused = asyncio.create_task(reader.rows("SELECT 1"))
    await asyncio.sleep(0)
    await reader.close()
    with pytest.raises(ProjectionsUnavailable):
        await refused


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A real log of some thousand events."""
    await fill(tmp_path / "chatbot.db")
    return tmp_path


async def fill(place: Path | str) -> None:
    log = await open_log(place)
    for n in range(100):
        await log.append(f"s{n}", 0, (created("alice"), *turns(40)), Metadata())
    await log.close()


async def test_the_command_beside_no_service(folder: Path, path: Path) -> None:
    before = log_digest(folder)
    told = await run_command(folder, "rebuild")
    assert told.returncode == 0, told.stderr
    assert "12100 events folded" in told.stdout
    assert len(contents(path)["sessions"]) == 100
    elsewhere = await run_command(folder, "rebuild", "--projections", "elsewhere.db")
    assert (elsewhere.returncode, contents(folder / "elsewhere.db")) == (0, contents(path))
    log_itself = await run_command(folder, "rebuild", "--projections", "chatbot.db")
    assert (log_itself.returncode, "holds no projections" in log_itself.stderr) == (1, True)
    assert log_digest(folder) == before


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has a class for the idle")
async def test_the_command_takes_only_time_that_nobody_else_wants(folder: Path, path: Path) -> None:
    options = {"CHATBOT_DATABASE_PROJECTION_BATCH_MAX": "5", "PYTHONPATH": ""}  # without tests/support/precedence
    async with running_command(folder, "rebuild", **options) as process:
        await until(temporary_path(path).exists)
        assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
        process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_the_command_may_be_stopped_and_run_again(folder: Path, path: Path, number: signal.Signals) -> None:
    assert (await run_command(folder, "rebuild")).returncode == 0
    before = contents(path)
    async with running_command(folder, "rebuild", CHATBOT_DATABASE_PROJECTION_BATCH_MAX="5") as process:
        async with asyncio.timeout(60):
            while not temporary_path(path).exists():
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        process.send_signal(number)
        _, err = await process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert b"Traceback" not in err
    assert contents(path) == before
    if number == signal.SIGINT:
        assert left_behind(path) == set()
    assert (await run_command(folder, "rebuild")).returncode == 0
    assert contents(path) == before


async def test_the_command_beside_the_running_service(folder: Path, path: Path, model: ModelServer) -> None:
    paths = ["/api/sessions?limit=100", "/api/usage", "/api/sessions/s7/messages?limit=100"]
    async with program(folder, model.url, **OPEN) as service, httpx.AsyncClient(base_url=service.url) as client:
        session_id = (await client.post("/api/sessions")).json()["session_id"]
        before = [(await client.get(one)).text for one in paths]
        told = await run_command(folder, "rebuild")
        assert (told.returncode, "from its next event" in told.stdout) == (0, True)
        await client.post("/api/chat", json={"session_id": session_id, "message": "one"})
        async with asyncio.timeout(60):
            while not service.log("projections.adopted"):
                await asyncio.sleep(1)
                await client.post("/api/chat", json={"session_id": session_id, "message": "more"})
        after = [(await client.get(one)).text for one in paths]
        assert json.loads(after[2]) == json.loads(before[2])
        sessions = [{one["session_id"] for one in json.loads(text)["sessions"]} for text in (before[0], after[0])]
        assert sessions[0] == sessions[1]
        assert json.loads(after[1])["usage"][0]["replies"] > json.loads(before[1])["usage"][0]["replies"]
        assert service.log("projections.rebuild") == service.log("projections.failed") == []
        assert await service.stop() == 0
    fresh = folder / "fresh.db"
    assert (await run_command(folder, "rebuild", "--projections", str(fresh))).returncode == 0
    assert contents(path) == contents(fresh)


@asynccontextmanager
async def served(
    place: Path | str, path: Path, told: RecordingObserver, batch_max: int = 2_000
) -> AsyncIterator[tuple[ProjectionRunner, EventLog]]:
    """A runner that has been level, so that clients are served, and whose log another process can open."""
    log = cast(NotifyingLog, await open_log(place))
    runner = create_runner(path, log, told, RunnerOptions(batch_max=batch_max, file_check_s=0.0, log_location=place))
    await runner.start()
    try:
        await runner.wait_for(log.head().position, timeout_s=60)
        told.batches.clear()
        yield runner, log
    finally:
        await runner.stop()
        await log.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def lose(path: Path, log: EventLog, name: str) -> None:
    """Delete the projections under their runner, which looks when there is news."""
    sqlite_file.delete(path)
    await log.append(name, 0, (created("alice"),), Metadata())


async def test_a_file_lost_beside_clients_is_made_again_by_a_process(folder: Path, path: Path) -> None:
    told = RecordingObserver()
    async with served(folder / "chatbot.db", path, told) as (runner, log):
        await lose(path, log, "new")
        await until(lambda: told.reasons != [])
        with pytest.raises(ProjectionLag):
            await runner.wait_for(log.head().position, timeout_s=0.01)
        assert runner.rebuilding
        for n in range(20):  # goes on meanwhile
            await log.append(f"n{n}", 0, (created("alice"),), Metadata())
        await until(lambda: runner.lag == 0)
        assert not runner.rebuilding
        assert await runner.queries.counts() == {"active": 121}
    assert (len(told.adoptions), len(told.reasons), told.failures) == (1, 1, [])
    assert sum(told.batches) <= 21, "the thread folds only what came after"
    assert left_behind(path) == set()
    assert (await run_command(folder, "rebuild", "--projections", "fresh.db")).returncode == 0
    assert contents(path) == contents(folder / "fresh.db")


@pytest.mark.real_part
async def test_the_process_reads_a_log_in_postgresql_as_well(postgres: PostgresServer, path: Path) -> None:
    url, told = await postgres.schema(), RecordingObserver()
    await fill(url)
    async with served(url, path, told) as (runner, log):
        await lose(path, log, "new")
        await until(lambda: told.reasons != [] and runner.lag == 0)
        assert await runner.queries.counts() == {"active": 101}
    assert (len(told.adoptions), told.failures, left_behind(path)) == (1, [], set())


async def test_where_a_process_cannot_make_it_the_thread_does(folder: Path, path: Path) -> None:
    told, lock = RecordingObserver(), PathLock(temporary_path(path))
    async with served(folder / "chatbot.db", path, told) as (runner, log):
        await lose(path, log, "new")
        await until(lambda: told.reasons != [] and runner.lag == 0)
        assert await runner.queries.counts() == {"active": 101}
    lock.release()
    assert ["ProjectionsInUse" in str(failure) for failure in told.failures] == [True]
    assert (sum(told.batches), told.adoptions) == (12_101, [])


async def test_a_process_that_makes_it_ends_with_the_runner(
    folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_process, "STOP_GRACE_S", 20.0)
    told = RecordingObserver()
    async with served(folder / "chatbot.db", path, told, batch_max=5) as (_, log):
        await lose(path, log, "new")
        await until(temporary_path(path).exists)
    assert (told.adoptions, told.failures, left_behind(path)) == ([], [], set())
    PathLock(temporary_path(path)).release()  # it has gone
    assert (await run_command(folder, "rebuild")).returncode == 0


async def test_a_process_that_nobody_waits_for_any_more_gives_up(
    folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_process, "STOP_GRACE_S", 20.0)
    folding = asyncio.create_task(rebuild_in_subprocess(folder / "chatbot.db", path, 1))
    await until(temporary_path(path).exists)
    folding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await folding
    assert (path.exists(), left_behind(path)) == (False, set())


def test_the_process_rests_longer_than_it_works() -> None:
    resting, began_s = RebuildThrottle(), time.monotonic()
    time.sleep(0.02)
    resting.rest(1)
    assert time.monotonic() - began_s >= 0.02 * (1 + REST)


async def test_the_service_has_a_process_make_the_file_that_it_lost(
    folder: Path, path: Path, model: ModelServer
) -> None:
    async with program(folder, model.url, **OPEN) as service, httpx.AsyncClient(base_url=service.url) as client:
        before = (await client.get("/api/usage")).json()
        sqlite_file.delete(path)
        async with asyncio.timeout(60):
            while not service.log("projections.adopted"):
                await client.post("/api/sessions")  # the runner looks at its file when there is news
                await asyncio.sleep(0.2)
        assert (await client.get("/api/usage")).json() == before
        assert (len(service.log("projections.rebuild")), service.log("projections.failed")) == (1, [])
        assert await service.stop() == 0


async def test_an_offer_from_beyond_what_this_process_has_heard_of_is_adopted(
    path: Path, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a log that several processes write: who made the offer may have read further."""
    await follow(path, log)
    behind = log.head()
    log.record("a", SessionAccessed())
    await rebuild(log, ready_path(path), 50, quiet)
    newest, known = log.head(), [behind]
    monkeypatch.setattr(log, "head", lambda: known[-1])

    async def latest() -> Head:
        known.append(newest)
        return newest

    monkeypatch.setattr(log, "latest", latest)
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        await until(lambda: told.adoptions != [] or told.failures != [])
        assert runner.lag == 0
    assert (told.adoptions, told.failures) == ([newest.position], [])
