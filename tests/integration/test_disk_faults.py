"""Files that are no log, disks that fill up or refuse, and other programs that hold on: each told in words, none fatal."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import LogInUse, LogUnavailable, LogUnusable
from events.options import LogOptions
from events.sqlite import SqliteLog
from events.sqlite_schema import FORMAT
from events.verify import verify
from tests.support.sample_events import ASKED, deleted, posted

IMPATIENT = LogOptions(busy_timeout_s=0.2, erase_wait_s=0.3)
DISK_KIB = 2048


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(f"size={DISK_KIB}k", disk)
    yield disk
    subprocess.run(["umount", disk], check=True)


def mount(options: str, disk: Path) -> None:
    if shutil.which("mount") is None:
        pytest.skip("no mount command here")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"mounting a disk is not permitted here: {done.stderr.strip()}")


async def log_with(path: Path, *texts: str) -> None:
    log = await SqliteLog.open(path)
    for version, text in enumerate(texts):
        await log.append("a", version, [posted(text)], ASKED)
    await log.close()


def foreign(path: Path, *statements: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for statement in statements:
        connection.execute(statement).fetchall()
    return connection


# ------------------------------------------------------------------------------------- what cannot be opened


async def refusal(path: Path, *, read_only: bool = False) -> str:
    with pytest.raises(LogUnusable) as refused:
        await SqliteLog.open(path, IMPATIENT, read_only=read_only)
    assert str(path) in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 500)
    assert "not an SQLite database: choose another DATABASE_URL" in await refusal(path, read_only=read_only)
    assert path.read_text() == "my notes\n" * 500


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_directory_is_refused(tmp_path: Path, read_only: bool) -> None:
    assert "is a directory" in await refusal(tmp_path, read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True])
async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "chat_sessions.db"
    foreign(
        path,
        "CREATE TABLE sessions (session_id TEXT PRIMARY KEY, created_at TEXT, last_accessed TEXT, metadata TEXT)",
        "CREATE TABLE messages (message_id TEXT PRIMARY KEY, session_id TEXT, role TEXT, content TEXT)",
        "INSERT INTO sessions VALUES ('s', 'now', 'now', '{}')",
    ).close()
    before = path.read_bytes()
    assert "belongs to another program: choose another DATABASE_URL" in await refusal(path, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_format_is_refused(tmp_path: Path, read_only: bool) -> None:
    await log_with(tmp_path / "log.db", "1")
    foreign(tmp_path / "log.db", f"PRAGMA user_version={FORMAT + 1}").close()
    message = await refusal(tmp_path / "log.db", read_only=read_only)
    assert "written by a newer version" in message
    assert "update the program" in message


async def test_a_missing_or_empty_file_is_no_log_to_read_but_one_to_create(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.db"
    assert "does not exist" in await refusal(path, read_only=True)
    path.parent.mkdir()
    path.touch()
    assert "is empty" in await refusal(path, read_only=True)
    await log_with(path, "1")


async def test_a_truncated_file_is_refused_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await log_with(path, *["x" * 5000] * 20)
    with path.open("r+b") as file:
        file.truncate(8192)
    assert "damaged: restore a copy" in await refusal(path)


async def test_a_disk_that_cannot_be_written_is_refused_but_can_be_read(small_disk: Path) -> None:
    path = small_disk / "log.db"
    await log_with(path, "1", "2")
    mount("remount,ro", small_disk)
    assert "cannot be written" in await refusal(path)
    assert "cannot write" in await refusal(small_disk / "other.db")
    assert "cannot make the directory" in await refusal_below(small_disk / "new" / "log.db")
    log = await SqliteLog.open(path, read_only=True)
    assert log.head().position == 2
    assert (await verify(log))[1] is None
    await log.close()


async def refusal_below(path: Path) -> str:
    with pytest.raises(LogUnusable, match=str(path.parent)) as refused:
        await SqliteLog.open(path)
    return str(refused.value)


async def test_a_file_without_write_permission_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write any file; the read-only disk above stands in")
    await log_with(tmp_path / "log.db", "1")
    (tmp_path / "log.db").chmod(0o444)
    assert "cannot be written" in await refusal(tmp_path / "log.db")


# ------------------------------------------------------------------------------------- one server per database

SERVER = """
import asyncio, sys
from events.sqlite import SqliteLog
async def serve():
    log = await SqliteLog.open(sys.argv[1])
    print("open", flush=True)
    await log.wait(10**9)
asyncio.run(serve())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that serves this test's log."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "log.db")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


async def test_a_second_server_is_refused_with_the_first_ones_process_id(
    tmp_path: Path, server: subprocess.Popen[str]
) -> None:
    (tmp_path / "alias.db").symlink_to(tmp_path / "log.db")
    for path in (tmp_path / "log.db", tmp_path / "alias.db"):
        with pytest.raises(LogInUse) as refused:
            await SqliteLog.open(path)
        assert str(refused.value) == (
            f"database {tmp_path / 'log.db'} is in use by process {server.pid};"
            " stop it or choose another DATABASE_URL"
        )


async def test_kill_9_lets_go_of_the_lock(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGKILL)
    server.wait()
    await log_with(tmp_path / "log.db", "1")


async def test_one_process_cannot_open_a_log_twice_either(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    with pytest.raises(LogInUse, match=f"process {os.getpid()};"):
        await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("still here")], ASKED)
    await log.close()
    await log_with(tmp_path / "log.db")


async def test_offline_commands_read_beside_a_server_and_write_nothing(tmp_path: Path) -> None:
    server = await SqliteLog.open(tmp_path / "log.db")
    await server.append("a", 0, [posted("1")], ASKED)
    reader = await SqliteLog.open(tmp_path / "log.db", read_only=True)
    await server.append("a", 1, [posted("2")], ASKED)
    assert len(await reader.read_all(limit=10)) == 2
    assert (await verify(reader))[1] is None
    for write in (reader.append("a", 2, [posted("x")], ASKED), reader.erase("a", 2, deleted(), ASKED), reader.wait(1)):
        with pytest.raises(LogUnavailable, match="reading only"):
            await write
    await reader.close()
    await server.append("a", 2, [posted("3")], ASKED)
    await server.close()


async def test_reading_a_closed_log_changes_no_byte_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await log_with(path, "1", "2")
    before = path.read_bytes()
    reader = await SqliteLog.open(path, read_only=True)
    assert len(await reader.read("a", limit=10)) == 2
    await reader.close()
    assert path.read_bytes() == before


# ------------------------------------------------------------------------------------- trouble while it runs


async def test_an_append_under_another_programs_lock_is_refused_and_the_next_one_recorded(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await log_with(path, "1")
    log = await SqliteLog.open(path, IMPATIENT)
    other = foreign(path, "BEGIN IMMEDIATE")
    results = await asyncio.gather(
        log.append("a", 1, [posted("2")], ASKED), log.append("b", 0, [posted("x")], ASKED), return_exceptions=True
    )
    assert [type(result) for result in results] == [LogUnavailable] * 2
    assert "another program keeps it locked (SQLITE_BUSY" in str(results[0])
    assert results[0] is not results[1]
    with pytest.raises(LogUnavailable):
        await log.erase("a", 1, deleted(), ASKED)
    assert len(await log.read_all(limit=10)) == 1
    other.execute("ROLLBACK")
    other.close()
    assert (await log.append("a", 1, [posted("2")], ASKED))[0].position == 2
    await log.close()


async def test_a_log_opens_under_another_programs_lock(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await log_with(path, "1")
    other = foreign(path, "BEGIN IMMEDIATE")
    log = await SqliteLog.open(path, IMPATIENT)
    assert log.head().position == 1
    other.close()
    await log.append("a", 1, [posted("2")], ASKED)
    await log.close()


async def test_a_new_log_under_another_programs_lock_is_refused(tmp_path: Path) -> None:
    other = foreign(tmp_path / "log.db", "PRAGMA journal_mode=WAL", "BEGIN IMMEDIATE")
    assert "another program keeps it locked" in await refusal(tmp_path / "log.db")
    other.close()
    await log_with(tmp_path / "log.db", "1")


async def test_events_that_another_program_appended_are_seen_and_followed(tmp_path: Path) -> None:
    """Nobody should, but the cached head must not make every append fail for ever."""
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, IMPATIENT)
    await log.append("a", 0, [posted("1")], ASKED)
    other = foreign(
        path,
        "INSERT INTO events SELECT 2, 'b', 1, type, schema_version, recorded_at, metadata, data, salt, commitment,"
        " digest FROM events",
    )
    other.close()
    waiter = asyncio.create_task(log.wait(2))
    recorded = await log.append("a", 1, [posted("2")], ASKED)
    assert recorded[0].position == 3
    assert (await waiter).position == 3
    fault = (await verify(log))[1]
    assert fault is not None
    assert fault.position == 2
    await log.close()


async def test_a_log_that_lost_events_under_the_server_refuses_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, IMPATIENT)
    await log.append("a", 0, [posted("1"), posted("2")], ASKED)
    foreign(path, "DROP TRIGGER events_refuse_delete", "DELETE FROM events WHERE position = 2").close()
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="has lost events that were recorded"):
            await log.append("a", 2, [posted("3")], ASKED)
    await log.close()


async def test_an_erasure_waits_for_another_programs_reader_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, IMPATIENT)
    await log.append("a", 0, [posted("VERYSECRET" * 50)], ASKED)
    other = foreign(path, "BEGIN", "SELECT count(*) FROM events")
    await log.erase("a", 1, deleted(), ASKED)
    assert log.erasure_pending
    assert b"VERYSECRET" in traces(path)
    await log.append("b", 0, [posted("others go on")], ASKED)
    other.close()
    async with asyncio.timeout(10):
        while log.erasure_pending:
            await asyncio.sleep(0.02)
    assert b"VERYSECRET" not in traces(path)
    await log.close()


def traces(path: Path) -> bytes:
    """Every byte of every file of the log."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(path.name + "*")))


async def test_content_erased_before_a_crash_is_gone_after_the_next_start(tmp_path: Path) -> None:
    """A copy of the files taken while a foreign reader held the write-ahead log, as a crash would leave them."""
    path, crashed = tmp_path / "log.db", tmp_path / "crashed" / "log.db"
    log = await SqliteLog.open(path, IMPATIENT)
    await log.append("a", 0, [posted("VERYSECRET" * 50)], ASKED)
    other = foreign(path, "BEGIN", "SELECT count(*) FROM events")
    await log.erase("a", 1, deleted(), ASKED)
    crashed.parent.mkdir()
    for file in (path, path.with_name("log.db-wal")):
        shutil.copy(file, crashed.parent)
    other.close()
    await log.close()
    assert b"VERYSECRET" in traces(crashed)
    again = await SqliteLog.open(crashed)
    assert b"VERYSECRET" not in traces(crashed)
    assert (await verify(again))[1] is None
    await again.close()


async def test_a_full_disk_refuses_appends_in_words_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_KIB * 1024 // 3))
    log = await SqliteLog.open(small_disk / "log.db", IMPATIENT)
    recorded = await fill_up(log)
    assert recorded > 20
    assert len(await log.read_all(limit=10_000)) == recorded
    waiting = [log.append(f"b{number}", 0, [posted("x" * 9000)], ASKED) for number in range(5)]
    assert {type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)} == {LogUnavailable}
    ballast.unlink()
    async with asyncio.timeout(10):
        await log.append("a", recorded, [posted("there is room")], ASKED)
        await log.erase("a", recorded + 1, deleted(), ASKED)
    walk, fault = await verify(log)
    assert fault is None
    assert walk.position == recorded + 2 == log.head().position
    assert not log.erasure_pending
    assert log.failure is None
    await log.close()


async def fill_up(log: SqliteLog) -> int:
    for version in range(1000):
        try:
            await log.append("a", version, [posted("x" * 9000)], ASKED)
        except LogUnavailable as error:
            assert "the disk is full: free some space" in str(error)
            return version
    raise AssertionError("the disk was never full")


async def test_a_disk_that_fails_gets_a_new_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input/output error cannot be had from a healthy disk: the connection is made to say so once."""
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("1")], ASKED)
    assert log._write_side is not None
    store = log._write_side.store
    before = store._connection
    assert before is not None

    async def fail(statement: str, values: object = None) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"
        raise error

    monkeypatch.setattr(before, "execute_fetchall", fail)
    with pytest.raises(LogUnavailable, match=r"look at the disk \(SQLITE_IOERR_FSYNC\)"):
        await log.append("a", 1, [posted("2")], ASKED)
    assert (await log.append("a", 1, [posted("2")], ASKED))[0].position == 2
    assert store._connection is not before
    await log.close()


async def test_a_read_that_fails_is_told_in_words_and_gets_a_new_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await SqliteLog.open(tmp_path / "log.db", LogOptions(read_connections=1))
    await log.append("a", 0, [posted("1")], ASKED)
    (connection,) = log._readers._open

    async def fail(statement: str, values: object = None) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_READ, "SQLITE_IOERR_READ"
        raise error

    monkeypatch.setattr(connection, "execute_fetchall", fail)
    with pytest.raises(LogUnavailable, match="SQLITE_IOERR_READ"):
        await log.read("a", limit=1)
    assert len(await log.read("a", limit=1)) == 1
    await log.close()
