"""The write-ahead log is made longer in advance, with zeros, which no reader takes for anything recorded."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from events.errors import LogUnavailable
from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.sqlite import wal as wal_file
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.wal import FileLoss, FileLossDetector
from tests.support.log.sample_events import ASKED, posted

EVENTS = 60


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


async def fill(log: SqliteLog, path: Path, first: int = 0) -> list[int]:
    """Append one event after another; returns the lengths that the write-ahead log had, each once."""
    lengths: list[int] = []
    for version in range(first, first + EVENTS):
        await log.append("a", version, [posted("x" * 500)], ASKED)
        lengths.append(wal(path).stat().st_size)
    return sorted(set(lengths))


async def test_few_commits_make_the_file_longer(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    assert len(await fill(log, path)) < 10
    await log.close()
    assert not wal(path).exists()


async def test_nothing_is_added_beyond_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, LogOptions(wal_limit_bytes=100_000))
    assert max(await fill(log, path)) < 120_000
    await log.close()


async def test_nothing_is_added_on_a_disk_with_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_file, "FREE_BYTES_MIN", 1 << 62)
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await fill(log, path)
    assert zeros(path) < 4096
    await log.close()


def zeros(path: Path) -> int:
    """So many bytes at the end of the write-ahead log."""
    content = wal(path).read_bytes()
    return len(content) - len(content.rstrip(b"\0"))


def drop_zeros(path: Path) -> None:
    """Cut the write-ahead log in the middle of its last zeros."""
    found = zeros(path)
    assert found > 4096
    with wal(path).open("r+b") as file:
        file.truncate(wal(path).stat().st_size - found // 2)


@pytest.mark.parametrize("some_are_lost", [False, True])
async def test_a_killed_process_leaves_zeros_and_every_event(tmp_path: Path, *, some_are_lost: bool) -> None:
    path, copy = tmp_path / "log.db", tmp_path / "copy.db"
    log = await SqliteLog.open(path)
    await fill(log, path)
    for file in (path, wal(path)):
        shutil.copy(file, tmp_path / file.name.replace("log", "copy"))
    head = log.head()
    await log.close()
    assert zeros(copy) > 4096
    if some_are_lost:
        drop_zeros(copy)
    opened = await SqliteLog.open(copy)
    assert opened.head() == head
    assert (await verify(opened))[1] is None
    await fill(opened, copy, first=EVENTS)
    await opened.close()


async def test_a_file_that_has_lost_only_zeros_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await fill(log, path)
    drop_zeros(path)
    await fill(log, path, first=EVENTS)
    assert log.damage is None
    assert (await verify(log))[1] is None
    await log.close()


async def test_zeros_do_not_hide_that_the_file_was_cut_just_before_they_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("x")], ASKED)
    opened = os.open

    def open_cut(*given: Any, **others: Any) -> int:
        if given[0] == str(wal(path)):
            monkeypatch.undo()
            os.truncate(wal(path), 0)
        return opened(*given, **others)

    monkeypatch.setattr(os, "open", open_cut)
    with pytest.raises(LogUnavailable, match="was cut short"):
        await fill(log, path, first=1)
    assert wal(path).stat().st_size == 0
    await log.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_file_that_was_cut_during_a_commit_is_noticed_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await fill(log, path)
    find_loss = FileLossDetector.find_loss

    def cut(files: FileLossDetector) -> FileLoss | None:  # called between a commit and a look at the length
        monkeypatch.undo()
        os.truncate(wal(path), 0)
        return find_loss(files)

    monkeypatch.setattr(FileLossDetector, "find_loss", cut)
    await log.append("a", EVENTS, [posted("x")], ASKED)
    with pytest.raises(LogUnavailable, match="was cut short"):
        await log.append("a", EVENTS + 1, [posted("x")], ASKED)
    await log.close()
