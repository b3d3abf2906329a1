"""A file of the log is deleted or replaced while it is open: nothing that was acknowledged is lost."""

import asyncio
import shutil
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.maintenance.backup import backup
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from events.errors import LogUnavailable, OutcomeUnknown
from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.sqlite import sqlite_batch_store
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.factory import create_runner
from projections.observer import NoObserver as NoProjectionObserver
from tests.support.fake_console import FakeConsole
from tests.support.log.log_files import FilesLostObserver, foreign, log_with
from tests.support.log.sample_events import ASKED, deleted, posted
from tests.support.log.stores import RemoteSqliteStores
from tests.support.model.model_server import ModelServer
from tests.support.service import started


def unlinked(*suffixes: str) -> Callable[[Path], None]:
    def lose(path: Path) -> None:
        for suffix in suffixes:
            path.with_name(path.name + suffix).unlink()

    return lose


def replaced(path: Path) -> None:
    """As a restore would that copies the wrong files over."""
    wal = path.with_name(path.name + "-wal")
    wal.unlink()
    wal.write_bytes(b"")


def moved(path: Path) -> None:
    wal = path.with_name(path.name + "-wal")
    wal.rename(path.with_name("elsewhere"))


LOSSES = {
    "wal": unlinked("-wal"),
    "shm": unlinked("-shm"),
    "both": unlinked("-wal", "-shm"),
    "replaced": replaced,
    "moved": moved,
}
losses = pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)


async def after_a_crash(path: Path) -> int:
    """The events in the database's file alone, as the next process finds them after `kill -9`."""
    alone = path.with_name("alone") / path.name
    alone.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, alone)
    log = await SqliteLog.open(alone)
    assert (await verify(log))[1] is None
    position = log.head().position
    await log.close()
    return position


@losses
async def test_what_is_acknowledged_after_the_loss_is_in_the_file(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path, heard = tmp_path / "log.db", FilesLostObserver()
    log = await SqliteLog.open(path, observe=heard)
    for version in range(3):
        await log.append("a", version, [posted("x")], ASKED)
    assert await after_a_crash(path) < 3  # the others are in the write-ahead file
    lose(path)
    acknowledged = 3
    for version in range(3, 6):
        with suppress(LogUnavailable):
            await log.append("a", version, [posted("x")], ASKED)
            acknowledged += 1
    assert await after_a_crash(path) >= acknowledged
    with pytest.raises(LogUnavailable, match="deleted or replaced while in use: nothing more is recorded"):
        await log.append("a", acknowledged, [posted("x")], ASKED)
    assert "deleted or replaced" in str(log.damage)
    assert len(heard.reasons) == 1
    assert len(await log.read_all(limit=10)) >= acknowledged  # reads go on
    await log.close()
    again = await SqliteLog.open(path)
    await again.append("a", again.head().position, [posted("x")], ASKED)
    await again.close()


@losses
async def test_a_loss_is_found_while_nobody_appends(
    tmp_path: Path, lose: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_batch_store, "FILE_CHECK_S", 0.02)
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("x")], ASKED)
    lose(path)
    async with asyncio.timeout(20):
        while log.damage is None:
            await asyncio.sleep(0.05)
    assert await after_a_crash(path) == 1
    await log.close()


@pytest.mark.usefixtures("no_timer")
async def test_an_erasure_at_that_moment_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("a secret of mine")], ASKED)
    unlinked("-wal")(path)
    await log.erase("a", 1, deleted(), ASKED)
    assert not log.erasure_pending
    assert await after_a_crash(path) == 2
    assert b"a secret of mine" not in path.read_bytes()
    await log.close()


@pytest.mark.usefixtures("no_timer")
async def test_what_cannot_be_saved_yet_is_not_acknowledged(tmp_path: Path) -> None:
    """Another program reads an old state, so that the newest pages cannot be copied over those that it reads."""
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path, LogOptions(busy_timeout_s=0.2))
    await log.append("a", 0, [posted("x")], ASKED)
    reader = foreign(path, "BEGIN", "SELECT count(*) FROM events")
    await log.append("a", 1, [posted("x")], ASKED)
    unlinked("-wal")(path)
    with pytest.raises(OutcomeUnknown, match="deleted or replaced"):
        await log.append("a", 2, [posted("x")], ASKED)
    reader.close()
    async with asyncio.timeout(20):
        while await after_a_crash(path) < 3:
            await asyncio.sleep(0.05)
    await log.close()


@pytest.mark.usefixtures("no_timer")
async def test_a_database_file_that_is_moved_away_and_back_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("x")], ASKED)
    path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(OutcomeUnknown, match="deleted or replaced"):  # at once, not at the next look
        await log.append("a", 1, [posted("x")], ASKED)
    with pytest.raises(LogUnavailable, match="deleted or replaced"):
        await log.append("a", 2, [posted("x")], ASKED)
    assert "deleted or replaced" in str(log.damage)
    (tmp_path / "elsewhere.db").rename(path)
    await log.append("a", 2, [posted("x")], ASKED)
    assert log.damage is None
    await log.close()


@pytest.mark.usefixtures("no_timer")
@pytest.mark.parametrize("connects_again", [False, True])
async def test_a_loss_is_found_after_a_failed_commit_too(tmp_path: Path, connects_again: bool) -> None:
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("x")], ASKED)
    assert log._write_side is not None
    store = log._write_side.store
    if connects_again:
        await store._disconnect()
        await log.append("a", 1, [posted("x")], ASKED)
    store._is_head_known = False
    unlinked("-wal")(path)
    head = log.head().position
    await log.append("a", head, [posted("x")], ASKED)
    assert await after_a_crash(path) == head + 1
    assert "deleted or replaced" in str(log.damage)
    await log.close()


async def test_files_that_sqlite_itself_has_deleted_are_not_missed(tmp_path: Path) -> None:
    """It does when the last connection is closed, as all are after an error of the disk."""
    path = tmp_path / "log.db"
    log = await SqliteLog.open(path)
    await log.append("a", 0, [posted("x")], ASKED)
    assert log._write_side is not None
    await log._pool.close()
    await log._write_side.store._disconnect()
    assert not path.with_name("log.db-wal").exists()
    await log.append("a", 1, [posted("x")], ASKED)
    assert log.damage is None
    await log.close()


@losses
async def test_workers_each_notice(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path = tmp_path / "log.db"
    logs = RemoteSqliteStores(tmp_path)
    one, other = await logs.open(), await logs.open()
    await one.append("a", 0, [posted("x")], ASKED)
    lose(path)
    acknowledged = 1
    for log, stream in ((one, "b"), (other, "c")):
        with suppress(LogUnavailable):
            await log.append(stream, 0, [posted("x")], ASKED)
            acknowledged += 1
    assert await after_a_crash(path) >= acknowledged
    for log, stream in ((one, "d"), (other, "e")):
        with pytest.raises(LogUnavailable, match="deleted or replaced"):
            await log.append(stream, 0, [posted("x")], ASKED)
    await logs.close()


async def test_the_service_says_so(tmp_path: Path, model: ModelServer) -> None:
    async with started(tmp_path, model.url) as running:
        await running.session()
        unlinked("-wal", "-shm")(tmp_path / "chatbot.db")
        answers = [await running.client.post("/api/sessions") for _ in range(2)]
        assert answers[-1].status_code == 503
        assert "nothing can be recorded until the service is restarted" in answers[-1].json()["detail"]
        health = await running.client.get("/api/health")
        assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
        ready = await running.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "damaged")
        metrics = (await running.client.get("/metrics")).text
        assert "chatbot_log_files_lost_total 1.0" in metrics
        assert await back_up(tmp_path / "chatbot.db", "kept.db") == 0  # all of it is in the file
    acknowledged = 1 + sum(one.status_code == 201 for one in answers)
    assert await after_a_crash(tmp_path / "kept.db") == acknowledged


async def test_a_backup_with_less_than_the_service_has_folded_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    await log_with(path, "1")
    shutil.copyfile(path, tmp_path / "older.db")
    log = await SqliteLog.open(path)
    await log.append("a", 1, [posted("2")], ASKED)
    runner = create_runner(tmp_path / "projections.db", log, NoProjectionObserver())
    await runner.start()
    await runner.wait_for(2)
    await runner.stop()
    await log.close()
    whole = path.read_bytes()
    (tmp_path / "empty").mkdir()
    await log_with(tmp_path / "empty" / "empty.db")
    for lossy in (tmp_path / "older.db", tmp_path / "empty" / "empty.db"):
        shutil.copyfile(lossy, path)
        with pytest.raises(CommandFailed, match="lacks events that were recorded") as refused:
            await back_up(path, "kept.db")
        assert refused.value.code == 1
        assert not (tmp_path / "kept.db").exists()
    path.write_bytes(whole)
    assert await back_up(path, "kept.db") == 0
    await log_with(tmp_path / "other.db", "another log, to which these projections say nothing")
    assert await back_up(tmp_path / "other.db", "kept2.db") == 0


async def back_up(path: Path, name: str) -> int:
    return await backup(
        FakeConsole(Settings(database=DatabaseSettings(url=str(path)))), Namespace(destination=path.parent / name)
    )
