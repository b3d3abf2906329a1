"""The write-ahead log stays short however much is written, and nothing that was recorded is lost on the way."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.sqlite import wal
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_files import foreign
from tests.support.log.sample_events import ASKED, deleted, posted

APPENDERS = 8
TEXT = "x" * 3000  # an event is a page, and one of the index is changed with it
LIMIT = LogOptions(wal_limit_bytes=400 * 4096, busy_timeout_s=0.5, erase_wait_s=5)


@pytest.fixture(autouse=True)
def short_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "NEW_PAGES", 100)
    monkeypatch.setattr(wal, "TAIL_PAGES", 30)


async def write(log: SqliteLog, path: Path, name: str, times: int) -> int:
    """Let appenders append so often each; returns the greatest size of the write-ahead log, in pages."""
    longest = 0

    async def appending(stream_id: str) -> None:
        nonlocal longest
        for version in range(times):
            await log.append(stream_id, version, [posted(TEXT)], ASKED)
            longest = max(longest, pages(path))

    await asyncio.gather(*(appending(f"{name} {number}") for number in range(APPENDERS)))
    return longest


def pages(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size // 4096


async def test_it_is_begun_anew_while_commits_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, LogOptions(wal_limit_bytes=2000 * 4096))  # half of what is written
    blocking: list[str] = []
    checkpoint = wal._checkpoint

    async def noted(connection, statement):  # type: ignore[no-untyped-def]
        blocking.extend([statement] if "PASSIVE" not in statement else [])
        return await checkpoint(connection, statement)

    monkeypatch.setattr(wal, "_checkpoint", noted)
    longest = await write(log, path, "a", 200)
    assert longest < 2000
    assert blocking == []
    assert (await verify(log))[1] is None
    assert log.head().position == 200 * APPENDERS
    await log.close()
    assert not path.with_name("log.db-wal").exists()


async def test_it_grows_while_another_program_reads_an_old_state_and_is_cut_back_then(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, LIMIT)
    await write(log, path, "a", 10)
    other = foreign(path, "BEGIN", "SELECT count(*) FROM events")
    assert await write(log, path, "b", 100) > 400
    other.close()
    await write(log, path, "c", 50)
    assert pages(path) < 400
    assert (await verify(log))[1] is None
    await log.close()


async def test_where_copying_fails_commits_go_on_and_wait_only_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, LIMIT)
    assert log._write_side is not None
    monkeypatch.setattr(log._write_side.store._wal_checkpointer, "_connect", fail)
    assert await write(log, path, "a", 200) < 600
    assert log.failure is None
    await log.close()


async def test_an_erasure_in_the_midst_of_copying_leaves_no_text_in_any_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, LIMIT)
    for number in range(5):
        secret = f"secret {number}"
        await log.append(secret, 0, [posted("VERYSECRET" * 50)], ASKED)
        writing = asyncio.create_task(write(log, path, f"other {number}", 40))
        await asyncio.sleep(0.01)
        await log.erase(secret, 1, deleted(), ASKED)
        assert not log.erasure_pending
        assert b"VERYSECRET" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
        await writing
    assert (await verify(log))[1] is None
    await log.close()
