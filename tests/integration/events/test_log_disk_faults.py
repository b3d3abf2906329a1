"""Trouble while the log runs: disks that fill up or fail, other programs that hold on. Told in words, never fatal."""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import LogUnavailable, LogUnusable
from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.sqlite import sqlite_batch_store
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_files import SHORT_TIMEOUTS, foreign, log_with, small_disk
from tests.support.log.sample_events import ASKED, deleted, posted

DISK_KIB = 2048


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_KIB) as directory:
        yield directory


async def test_an_append_under_another_programs_lock_is_refused_and_the_next_one_recorded(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await log_with(path, "1")
    log = await SqliteLog.open(path, SHORT_TIMEOUTS)
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
    log = await SqliteLog.open(path, SHORT_TIMEOUTS)
    assert log.head().position == 1
    other.close()
    await log.append("a", 1, [posted("2")], ASKED)
    await log.close()


async def test_a_new_log_under_another_programs_lock_is_refused(tmp_path: Path) -> None:
    other = foreign(tmp_path / "log.db", "PRAGMA journal_mode=WAL", "BEGIN IMMEDIATE")
    with pytest.raises(LogUnusable, match="another program keeps it locked"):
        await SqliteLog.open(tmp_path / "log.db", SHORT_TIMEOUTS)
    other.close()
    await log_with(tmp_path / "log.db", "1")


async def test_events_that_another_program_appended_are_seen_and_followed(tmp_path: Path) -> None:
    """Nobody should, but the cached head must not make every later append fail."""
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, SHORT_TIMEOUTS)
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
    log = await SqliteLog.open(path, SHORT_TIMEOUTS)
    await log.append("a", 0, [posted("1"), posted("2")], ASKED)
    foreign(path, "DROP TRIGGER events_refuse_delete", "DELETE FROM events WHERE position = 2").close()
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="has lost events that were recorded"):
            await log.append("a", 2, [posted("3")], ASKED)
    await log.close()


async def test_an_erasure_waits_for_another_programs_reader_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, SHORT_TIMEOUTS)
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
    log = await SqliteLog.open(path, SHORT_TIMEOUTS)
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


async def test_a_full_disk_refuses_appends_in_words_and_goes_on_when_there_is_room(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(DISK_KIB * 1024 * 2 // 3))
    log = await SqliteLog.open(disk / "log.db", SHORT_TIMEOUTS)
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
        (result,) = await asyncio.gather(log.append("a", version, [posted("x" * 9000)], ASKED), return_exceptions=True)
        if isinstance(result, LogUnavailable):
            assert "the disk is full: free some space" in str(result)
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


async def test_an_erasure_that_fails_half_way_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("1")], ASKED)

    def fail_to_erase(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_batch_store, "erase_content", fail_to_erase)
        with pytest.raises(LogUnavailable, match="the disk is full"):
            await log.erase("a", 1, deleted(), ASKED)
    foreign(tmp_path / "log.db", "BEGIN IMMEDIATE").close()  # no transaction is left open
    assert [event.event for event in await log.read("a", limit=10)] == [posted("1")]
    assert (await log.erase("a", 1, deleted(), ASKED))[0].position == 2
    await log.close()


async def test_a_read_that_fails_is_told_in_words_and_gets_a_new_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await SqliteLog.open(tmp_path / "log.db", LogOptions(read_connections=1))
    await log.append("a", 0, [posted("1")], ASKED)
    (slot,) = log._pool._slots
    assert slot.batcher is not None

    async def fail(statement: str, values: object = None) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_READ, "SQLITE_IOERR_READ"
        raise error

    monkeypatch.setattr(slot.batcher.connection, "execute_fetchall", fail)
    with pytest.raises(LogUnavailable, match="SQLITE_IOERR_READ"):
        await log.read("a", limit=1)
    assert len(await log.read("a", limit=1)) == 1
    await log.close()
