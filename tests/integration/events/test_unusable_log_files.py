"""Files that are no log that can be served: each refused with what to do, and left as it was."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatbot.cli.remedies import with_remedy
from events.catalogue import SessionAccessed, SessionCreated
from events.errors import LogUnavailable, LogUnusable
from events.integrity.chain_verifier import verify
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import FORMAT
from tests.support.log.log_files import SHORT_TIMEOUTS, foreign, log_with, small_disk, unwritable


async def refusal(path: Path, *, read_only: bool = False) -> str:
    """Why `path` is refused: twice in the same words, so the first refusal has released everything."""
    messages = []
    for _ in range(2):
        with pytest.raises(LogUnusable) as refused:
            await SqliteLog.open(path, SHORT_TIMEOUTS, read_only=read_only)
        messages.append(with_remedy(refused.value))
    assert messages[0] == messages[1]
    assert str(path) in messages[0]
    return messages[0]


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 500)
    assert "not an SQLite database (SQLITE_NOTADB): choose another DATABASE_URL" in await refusal(
        path, read_only=read_only
    )
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
    assert "damaged (SQLITE_CORRUPT): restore a copy" in await refusal(path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory that can be made unwritable, even for root."""
    if os.geteuid() == 0:
        with small_disk(tmp_path / "disk", 4096) as directory:
            yield directory
    else:
        (tmp_path / "disk").mkdir()
        yield tmp_path / "disk"


async def test_a_disk_that_cannot_be_written_is_refused_but_can_be_read(disk: Path) -> None:
    path = disk / "log.db"
    await log_with(path, "1", "2")
    with unwritable(disk):
        assert "cannot be written" in await refusal(path)
        assert "cannot write" in await refusal(disk / "other.db")
        with pytest.raises(LogUnusable, match=f"cannot make the directory {disk / 'new'}"):
            await SqliteLog.open(disk / "new" / "log.db")
        log = await SqliteLog.open(path, read_only=True)
        assert log.head().position == 2
        assert (await verify(log))[1] is None
        await log.close()


async def test_a_log_whose_file_was_deleted_or_replaced_refuses_to_write_into_nowhere(tmp_path: Path) -> None:
    """What is written to a file without a name is gone with the process: nothing of that may be acknowledged."""
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    try:
        await log.append("a", 0, [SessionCreated(owner=None, metadata={}, timeout_s=60)], Metadata())
        path.rename(tmp_path / "elsewhere.db")
        await asyncio.sleep(1.1)
        with pytest.raises(LogUnavailable, match="deleted or replaced"):
            await log.append("a", 1, [SessionAccessed()], Metadata())
        (tmp_path / "elsewhere.db").rename(path)
        await log.append("a", 1, [SessionAccessed()], Metadata())
    finally:
        await log.close()
