"""The projections follow the log, and keep up with it whatever happens around them."""

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from chatbot.cli.remedies import with_remedy
from events.catalogue import ReplyProgressed, SessionAccessed, SessionDeleted
from events.errors import LogUnavailable, LogUnusable, UnknownEvent
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.errors import (
    LogReplaced,
    ProjectionLag,
    ProjectionsInUse,
    ProjectionsStopped,
    ProjectionsUnavailable,
    ProjectionsUnusable,
)
from projections.factory import create_runner
from projections.runner import SERVING_BATCH_MAX, RunnerOptions
from projections.sqlite import sqlite_file
from tests.support.log.event_builders import created, turn, turns
from tests.support.log.memory_log import MemoryLog
from tests.support.sessions.projection_harness import OPTIONS, RecordingObserver, contents, follow, running

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "projections.db"


@pytest.fixture
def log() -> MemoryLog:
    """Three sessions of some hundred events."""
    log = MemoryLog()
    for name in "abc":
        log.record(name, created("alice", topic=name), *turns(60))
    return log


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_was_recorded_is_soon_answered(path: Path) -> None:
    log = MemoryLog()
    async with running(path, log) as runner:
        for n in range(5):
            log.record(f"s{n}", created())
            await runner.wait_for(log.head().position, timeout_s=5)
            assert await runner.queries.counts() == {"active": n + 1}
        assert (runner.position, runner.lag, runner.rebuilding) == (5, 0, False)


async def test_a_missing_file_is_made_from_the_whole_log_with_progress(path: Path, log: MemoryLog) -> None:
    told, head = RecordingObserver(), log.head().position
    async with running(path, log, told) as runner:
        assert runner.rebuilding
        await runner.wait_for(head, timeout_s=10)
        assert not runner.rebuilding
    assert sum(told.batches) == head
    assert told.progressed[0] == (50, head)
    assert told.progressed[-1] == (head, head)
    assert told.reasons == []


async def test_a_restart_reads_the_tail_only(path: Path, log: MemoryLog) -> None:
    await follow(path, log)
    log.record("a", SessionAccessed())
    log.reads = 0
    told = await follow(path, log)
    assert (told.batches, told.reasons, log.reads) == ([1], [], 1)


async def test_a_deleted_file_is_made_again_with_the_same_answers(path: Path, log: MemoryLog) -> None:
    await follow(path, log)
    before = contents(path)
    path.unlink()
    await follow(path, log)
    assert contents(path) == before


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def garble_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xa5" * 200)


def garble_middle(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 8192))


def garble_state(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE sessions SET state = 'damaged'")
        connection.commit()


def not_a_database(path: Path) -> None:
    path.write_text("a note that someone left here " * 100)


def change_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET schema_version = schema_version + 1")
        connection.commit()


def lose_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE messages")
        connection.commit()


def lose_session(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM sessions WHERE session_id = 'a'")
        connection.commit()


def lose_meta(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM meta")
        connection.commit()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut_short, "damaged"),
        (garble_header, "damaged"),
        (garble_middle, "damaged"),
        (garble_state, "damaged"),
        (not_a_database, "damaged"),
        (change_version, "its tables have version"),
        (lose_table, "damaged"),
        (lose_session, "lost 1 sessions"),
        (lose_meta, "its tables have version None"),
    ],
)
async def test_a_file_that_does_not_fit_is_deleted_and_made_again(
    path: Path, log: MemoryLog, harm: Callable[[Path], None], reason: str
) -> None:
    await follow(path, log)
    harm(path)
    log.record("a", *turn(61, "r60"))
    told = await follow(path, log)
    assert len(told.reasons) == 1
    assert reason in told.reasons[0]
    assert told.failures == []
    fresh = path.with_name("fresh.db")
    await follow(fresh, log)
    assert contents(path) == contents(fresh)


async def test_damage_is_found_at_start_even_when_nothing_has_to_be_written(path: Path, log: MemoryLog) -> None:
    await follow(path, log)
    with path.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\xa5" * 4096)
    assert "damaged" in (await follow(path, log)).reasons[0]


def lost() -> MemoryLog:
    """The log without its newest events."""
    older = MemoryLog()
    older.record("a", created("alice", topic="a"))
    return older


def replaced() -> MemoryLog:
    other = MemoryLog(b"another")
    other.record("x", created())
    return other


def rewritten(length: int) -> MemoryLog:
    """A log that begins in the same way and goes another."""
    other = MemoryLog()
    other.record("a", created("alice", topic="a"))
    other.record("x", *(SessionAccessed() for _ in range(length)))
    return other


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replaced(), "it was made from another log"),
        (lost(), "is beyond the log's end"),
        (rewritten(1000), "is not the one it folded"),
        (MemoryLog(), "it was made from another log"),
    ],
)
async def test_a_log_without_what_was_folded_is_refused_and_both_are_left_alone(
    path: Path, log: MemoryLog, other: MemoryLog, reason: str
) -> None:
    """To fold what is left would hide that events are lost. Deleting the file says that it is meant."""
    await follow(path, log)
    before = contents(path)
    for _ in range(2):
        with pytest.raises(LogReplaced, match=reason):
            await create_runner(path, other, None, OPTIONS).start()
    assert contents(path) == before
    assert (await follow(path, log)).reasons == []
    path.unlink()
    told = await follow(path, other)
    assert told.reasons == []
    assert told.failures == []


async def test_another_programs_database_is_left_alone(path: Path, log: MemoryLog) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
        connection.execute("INSERT INTO theirs VALUES ('precious')")
        connection.commit()
    runner = create_runner(path, log)
    with pytest.raises(ProjectionsUnusable, match="another program's database"):
        await runner.start()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT a FROM theirs").fetchall() == [("precious",)]


async def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path, log: MemoryLog) -> None:
    with pytest.raises(ProjectionsUnusable, match="cannot be opened"):
        await create_runner(tmp_path, log).start()


async def test_the_store_of_an_empty_log_counts_as_rebuilt_once_it_answers(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("no database " * 100)
    async with running(path, MemoryLog()) as runner:
        assert runner.rebuilding
        await until(lambda: not runner.rebuilding)
        assert await runner.queries.counts() == {}


async def test_a_path_belongs_to_one_runner_at_a_time(path: Path, log: MemoryLog) -> None:
    async with running(path, log):
        with pytest.raises(ProjectionsInUse) as refused:
            await create_runner(path, MemoryLog(b"another"), None, OPTIONS).start()
        assert "CHATBOT_DATABASE_PROJECTIONS_PATH" in with_remedy(refused.value)
    assert (await follow(path, log)).failures == []


@pytest.mark.parametrize("suffixes", [("", "-wal", "-shm"), ("-wal",), ("-shm",), ("-wal", "-shm")])
async def test_a_file_deleted_under_the_runner_is_made_again(
    path: Path, log: MemoryLog, suffixes: tuple[str, ...]
) -> None:
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        await runner.wait_for(log.head().position, timeout_s=10)
        for suffix in suffixes:
            path.with_name(path.name + suffix).unlink()
        assert await runner.queries.counts() == {"active": 3}
        log.record("d", created())
        await runner.wait_for(log.head().position, timeout_s=10)
        await until(lambda: told.reasons != [] and runner.lag == 0)
        assert await runner.queries.counts() == {"active": 4}
    assert told.reasons == ["it was deleted or replaced while in use"]
    assert len(contents(path)["sessions"]) == 4


async def test_a_rebuild_beside_clients_goes_in_small_steps_and_one_at_the_start_in_big_ones(
    path: Path, log: MemoryLog
) -> None:
    told = RecordingObserver()
    runner = create_runner(path, log, told, RunnerOptions(batch_max=10_000, file_check_s=0.0))
    await runner.start()
    await runner.wait_for(log.head().position, timeout_s=10)
    assert told.batches == [log.head().position]
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    log.record("d", created())
    await until(lambda: told.reasons != [] and runner.lag == 0)
    await runner.stop()
    again = told.batches[1:]
    assert sum(again) >= log.head().position
    assert max(again) == SERVING_BATCH_MAX


async def test_a_rebuild_by_a_process_that_is_replaced_while_clients_are_served_goes_in_small_steps(
    path: Path, log: MemoryLog
) -> None:
    told = RecordingObserver()
    runner = create_runner(path, log, told, RunnerOptions(batch_max=10_000, is_serving=True))
    await runner.start()
    await runner.wait_for(log.head().position, timeout_s=10)
    await runner.stop()
    assert max(told.batches) == SERVING_BATCH_MAX


async def test_a_file_may_be_deleted_as_often_as_one_likes(path: Path, log: MemoryLog) -> None:
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        for times in range(1, 6):
            await runner.wait_for(log.head().position, timeout_s=10)
            path.unlink()
            log.record("a", SessionAccessed())
            await until(lambda times=times: len(told.reasons) == times and runner.lag == 0)  # type: ignore[misc]  # default
        assert runner.failure is None


async def test_a_query_that_finds_the_file_gone_has_it_made_again(
    path: Path, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follow(path, log)
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        await runner.wait_for(log.head().position, timeout_s=10)
        await asyncio.sleep(0.05)  # now it waits for the log
        path.unlink()
        interrupted = sqlite3.OperationalError("disk I/O error")
        interrupted.sqlite_errorcode = sqlite3.SQLITE_IOERR
        failing = AsyncMock(side_effect=interrupted)
        with monkeypatch.context() as patch:
            patch.setattr("aiosqlite.Connection.execute_fetchall", failing)
            with pytest.raises(ProjectionsUnavailable):
                await runner.queries.counts()
        await until(lambda: told.reasons != [] and not runner.rebuilding)
        assert await runner.queries.counts() == {"active": 3}
    assert told.reasons == ["it was deleted or replaced while in use"]


async def test_damage_met_by_a_query_is_repaired_behind_it(path: Path, log: MemoryLog) -> None:
    await follow(path, log)
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        await runner.wait_for(log.head().position, timeout_s=10)
        garble_middle(path)
        with pytest.raises(ProjectionsUnavailable):
            await runner.queries.path(1, "r60", limit=200)
        await until(lambda: told.reasons != [] and not runner.rebuilding)
        assert await runner.queries.counts() == {"active": 3}
    assert len(told.reasons) == 1


async def test_what_stands_in_the_way_is_waited_for_and_nothing_is_left_out(
    path: Path, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sqlite_file._PRAGMAS, "busy_timeout", 10)
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        await runner.wait_for(log.head().position, timeout_s=10)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            log.record("d", created(), *turns(60))  # more than three batches
            await until(lambda: len(told.failures) > 1)
            with pytest.raises(ProjectionLag):
                await runner.wait_for(log.head().position, timeout_s=0.01)
            other.execute("ROLLBACK")
        await runner.wait_for(log.head().position, timeout_s=10)
    assert (told.reasons, runner.failure) == ([], None)
    await follow(path.with_name("fresh.db"), log)
    assert contents(path) == contents(path.with_name("fresh.db"))


async def test_a_log_with_a_gap_stops_the_projections_loudly(path: Path, log: MemoryLog) -> None:
    del log.events[100]
    async with running(path, log) as runner:
        with pytest.raises(ProjectionsStopped):
            await runner.wait_for(log.head().position, timeout_s=10)
        assert isinstance(runner.failure, LogUnusable)
        assert runner.position == 100


async def test_a_log_that_cannot_be_read_just_now_is_read_later(path: Path, log: MemoryLog) -> None:
    log.fails_with = LogUnavailable("disk")
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        await until(lambda: len(told.failures) > 1)
        log.fails_with = None
        await runner.wait_for(log.head().position, timeout_s=10)
    assert told.reasons == []


async def test_an_event_of_a_newer_program_stops_the_projections_loudly(path: Path, log: MemoryLog) -> None:
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        await runner.wait_for(log.head().position, timeout_s=10)
        log.fails_with = UnknownEvent("from_the_future", 9)
        log.record("a", SessionAccessed())
        with pytest.raises(ProjectionsStopped) as stopped:
            await runner.wait_for(log.head().position, timeout_s=10)
        assert isinstance(stopped.value.__cause__, UnknownEvent)
        assert isinstance(runner.failure, UnknownEvent)
        assert await runner.queries.counts() == {"active": 3}
    assert [type(error) for error in told.failures] == [UnknownEvent]


async def test_rebuilding_in_vain_ends(path: Path, log: MemoryLog) -> None:
    """A stream that begins in the middle cannot be folded, however often it is tried."""
    log.events[0] = log.events[0].__class__(1, "other", 1, "session_created", 1, 0, Metadata(), created())
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        with pytest.raises(ProjectionsStopped):
            await runner.wait_for(log.head().position, timeout_s=10)
        assert "3 times in vain: it has lost 1 sessions" in str(runner.failure)
    assert len(told.reasons) == 3


async def test_stopping_answers_everyone_who_waits(path: Path, log: MemoryLog) -> None:
    async with running(path, log) as runner:
        waiter = asyncio.create_task(runner.wait_for(10_000, timeout_s=30))
        await asyncio.sleep(0.01)
    with pytest.raises(ProjectionsStopped):
        await waiter


async def test_no_task_and_no_thread_is_left_behind(path: Path, log: MemoryLog) -> None:
    import threading

    threads = threading.active_count()
    await follow(path, log)
    await until(lambda: threading.active_count() <= threads)  # one of an earlier test may end meanwhile
    assert asyncio.all_tasks() == {asyncio.current_task()}


WORDS = ("secretword", "topicword", "titleword", "promptword", "keyword")


async def test_a_persons_words_never_reach_the_file(tmp_path: Path) -> None:
    path, m = tmp_path / "projections.db", Metadata()
    log = await SqliteLog.open(tmp_path / "log.db")
    try:
        first = created("alice", "titleword", topicword="topicword").__class__(
            "alice", {"topicword": "topicword"}, 60, "titleword", "promptword"
        )
        async with running(path, log) as runner:
            for n in range(40):
                posted, started, completed = turn(n)
                said = type(posted)(f"m{n}", None, "user", "secretword " * 9, f"r{n}", idempotency_key="keyword")
                done = type(completed)(f"r{n}", "secretword " * 9, "stop", "small", 1)
                events = (first, said, started, ReplyProgressed(f"r{n}", 0, "secretword"), done)
                await log.append(f"s{n}", 0, events, m)
                if n % 2:
                    await log.erase(f"s{n}", 5, SessionDeleted("asked", "alice"), m)
            await runner.wait_for(log.head().position, timeout_s=10)
            held = b"".join(file.read_bytes() for file in sorted(tmp_path.glob("projections.db*")))
        assert b"session_id" in held
        assert [word for word in WORDS if word.encode() in held] == []
        assert b"secretword" in b"".join(file.read_bytes() for file in tmp_path.glob("log.db*"))
    finally:
        await log.close()


DIES = """
import asyncio, os, signal, sys
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.factory import create_runner
from projections.runner import ProjectionRunner, RunnerOptions
from tests.support.sessions.projection_harness import RecordingObserver

class Dies(RecordingObserver):
    def applied(self, events, seconds):
        super().applied(events, seconds)
        if len(self.batches) == int(sys.argv[2]):
            asyncio.get_running_loop().call_later(float(sys.argv[3]), os.kill, os.getpid(), signal.SIGKILL)

async def main():
    log = await SqliteLog.open(sys.argv[1] + "/log.db")
    runner = create_runner(sys.argv[1] + "/projections.db", log, Dies(), RunnerOptions(batch_max=20))
    await runner.start()
    await asyncio.sleep(30)

asyncio.run(main())
"""


async def test_after_a_kill_the_file_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    for n in range(20):
        await log.append(f"s{n}", 0, (created("alice"), *turns(40)), Metadata())
    await log.close()
    for batches, pause_s in ((5, 0.0), (10, 0.0013)):
        command = [sys.executable, "-c", DIES, str(tmp_path), str(batches), str(pause_s)]
        died = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, check=False, timeout=30)
        assert died.returncode == -signal.SIGKILL
    log = await SqliteLog.open(tmp_path / "log.db")
    try:
        told = await follow(tmp_path / "projections.db", log)
        assert told.reasons == []
        assert sum(told.batches) <= log.head().position - 15 * 20
        await follow(tmp_path / "fresh.db", log)
    finally:
        await log.close()
    assert contents(tmp_path / "projections.db") == contents(tmp_path / "fresh.db")


async def test_a_file_copied_from_elsewhere_while_stopped_is_recognised(path: Path, log: MemoryLog) -> None:
    """The checkpoint inside the file counts, not the file's name or age."""
    await follow(path, log)
    shutil.copy(path, path.with_name("copy.db"))
    log.record("a", SessionAccessed())
    told = await follow(path.with_name("copy.db"), log)
    assert (told.batches, told.reasons) == ([1], [])
