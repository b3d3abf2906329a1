"""The write-ahead file is cut short under an open log: nothing more is acknowledged, and the database stays whole."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from events.errors import LogUnavailable
from events.integrity.chain_verifier import verify
from events.log import EventLog
from events.options import LogOptions
from events.storage.sqlite import sqlite_batch_store
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_files import FilesLostObserver
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.stores import RemoteSqliteStores

CUT = "-wal was cut short while in use"
HEAD, PART = 0, 32 + 2 * (24 + 4096)  # bytes that are left: none, or two pages


def cut(path: Path, left: int = HEAD) -> None:
    """As `: > chatbot.db-wal` does."""
    with path.with_name(path.name + "-wal").open("r+b") as file:
        file.truncate(left)


async def events_in(path: Path) -> int:
    log = await SqliteLog.open(path)
    assert (await verify(log))[1] is None
    position = log.head().position
    await log.close()
    return position


async def damaged(log: EventLog) -> None:
    async with asyncio.timeout(20):
        while log.damage is None:
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("no_timer")
@pytest.mark.parametrize("left", [HEAD, PART])
async def test_the_next_commit_is_refused_and_changes_nothing(tmp_path: Path, left: int) -> None:
    path, heard = tmp_path / "log.db", FilesLostObserver()
    log = await SqliteLog.open(path, observe=heard)
    await log.append("a", 0, [posted("one")], ASKED)
    await log.erase("a", 1, deleted(), ASKED)  # copies all of it into the database
    for version in range(4):
        await log.append("b", version, [posted("x" * 3000)], ASKED)
    cut(path, left)
    for stream in ("b", "c"):
        with pytest.raises(LogUnavailable, match=CUT):
            await log.append(stream, 4, [posted("x")], ASKED)
    await damaged(log)
    assert CUT in str(log.damage)
    assert len(heard.reasons) == 1
    await log.close()
    assert await events_in(path) in (2, 3)  # a frame that is left may be a whole commit


@pytest.mark.usefixtures("no_timer")
@pytest.mark.parametrize("how", ["erase", "probe"])
async def test_erasures_and_probes_are_refused_too(tmp_path: Path, how: str) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("one")], ASKED)
    cut(path)
    with pytest.raises(LogUnavailable, match=CUT):
        await (log.erase("a", 1, deleted(), ASKED) if how == "erase" else log.check_writable())
    await log.close()
    assert await events_in(path) == 0


async def test_it_is_found_while_nobody_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_batch_store, "FILE_CHECK_S", 0.02)
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("one")], ASKED)
    cut(path)
    await damaged(log)
    assert CUT in str(log.damage)
    await log.close()


@pytest.mark.usefixtures("no_timer")  # two that look at the same time would be in each other's way
async def test_every_worker_refuses(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    logs = RemoteSqliteStores(tmp_path)
    one, other = await logs.open(), await logs.open()
    await one.append("a", 0, [posted("one")], ASKED)
    await other.append("b", 0, [posted("one")], ASKED)
    cut(path)
    for log, stream in ((one, "c"), (other, "d")):
        with pytest.raises(LogUnavailable, match=CUT):
            await log.append(stream, 0, [posted("x")], ASKED)
        await damaged(log)
    await logs.close()
    assert await events_in(path) == 0


async def test_a_checkpoint_of_another_program_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    for version in range(3):
        await log.append("a", version, [posted("one")], ASKED)
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    await log.check_writable()
    await log.append("a", 3, [posted("one")], ASKED)
    assert log.damage is None
    await log.close()
    assert await events_in(path) == 4


async def test_a_file_that_begins_anew_within_its_limit_is_no_loss(tmp_path: Path) -> None:
    """SQLite cuts it to the limit with the first commit after all was copied."""
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, LogOptions(wal_limit_bytes=1_000_000))
    for version in range(12):
        await log.append("a", version, [posted("x" * 200_000)], ASKED)
    assert log.damage is None
    await log.close()
    assert await events_in(path) == 12
