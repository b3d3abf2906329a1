"""`run.py backup`: a verified copy of the log, made while it is served."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from events.integrity.chain_verifier import verify
from events.storage.sqlite.sqlite_log import SqliteLog
from events.transfer.online_backup import BackupStopped, copy_log
from tests.support.command_processes import run_command
from tests.support.log.corruption import leaf_pages, overwrite_page
from tests.support.log.log_files import foreign, log_with
from tests.support.log.sample_events import ASKED, posted
from tests.support.log.sample_log import rows_of
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, environment, program


async def test_a_backup_made_under_load_is_a_whole_log_that_opens_alone(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running, httpx.AsyncClient(base_url=running.url, timeout=20) as client:
        ids = [(await client.post("/api/sessions")).json()["session_id"] for _ in range(4)]
        busy = True

        async def talk(session_id: str) -> int:
            told = 0
            while busy:
                answer = await client.post("/api/chat", json={"session_id": session_id, "message": "x" * 500})
                assert answer.status_code == 200
                told += 1
            return told

        talking = [asyncio.create_task(talk(one)) for one in ids]
        await asyncio.sleep(0.3)
        done = await run_command(tmp_path, "backup", "kept.db")
        busy = False
        assert min(await asyncio.gather(*talking)) > 1
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    alone = tmp_path / "alone"
    alone.mkdir()
    (tmp_path / "kept.db").rename(alone / "kept.db")
    assert sorted(path.name for path in tmp_path.glob("kept.db*")) == []
    with sqlite3.connect(alone / "kept.db") as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    copy.close()
    last = (await rows_of(alone / "kept.db"))[-1]
    assert (told["position"], told["digest"]) == (last.position, last.digest.hex())
    assert told["bytes"] == (alone / "kept.db").stat().st_size
    log = await SqliteLog.open(alone / "kept.db")  # and goes on as a log
    await log.append("new", 0, [posted("on")], ASKED)
    await log.close()


async def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    await log_with(tmp_path / "chatbot.db", "1")
    for name in ("kept.db", "kept.db.partial"):
        (tmp_path / name).write_text("precious")
        refused = await run_command(tmp_path, "backup", "kept.db")
        assert refused.returncode == 2
        assert f"{name} exists" in refused.error_line
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()
    elsewhere = await run_command(tmp_path, "backup", "nowhere/kept.db")
    assert elsewhere.returncode == 2
    assert "cannot write nowhere/kept.db.partial" in elsewhere.error_line
    assert (await run_command(tmp_path, "backup", "x.db", DATABASE_URL="none.db")).returncode == 3


async def test_a_log_that_does_not_hold_leaves_no_backup(tmp_path: Path) -> None:
    await log_with(tmp_path / "chatbot.db", *["x" * 3000] * 10)
    foreign(
        tmp_path / "chatbot.db",
        "DROP TRIGGER events_refuse_update",
        "UPDATE events SET recorded_at = recorded_at + 1 WHERE position = 2",
    ).close()
    refused = await run_command(tmp_path, "backup", "kept.db")
    assert refused.returncode == 1
    assert "no backup was made: the log does not hold at position 2" in refused.error_line
    assert list(tmp_path.glob("kept.db*")) == []
    overwrite_page(tmp_path / "chatbot.db", leaf_pages(tmp_path / "chatbot.db")[3])
    torn = await run_command(tmp_path, "backup", "kept.db")
    assert "no backup was made: database" in torn.error_line
    assert "chatbot salvage" in torn.error_line
    assert list(tmp_path.glob("kept.db*")) == []


async def test_a_copy_is_of_one_moment_however_much_is_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a transaction of its own each append would restart it."""
    monkeypatch.setattr("events.transfer.online_backup.PAGES", 2)
    path = tmp_path / "log.db"
    await log_with(path, *["x" * 3000] * 50)
    log = await SqliteLog.open(path)
    loop, steps = asyncio.get_running_loop(), list[int]()

    def step(done: int, pages: int) -> None:
        steps.append(done)
        appended = asyncio.run_coroutine_threadsafe(log.append("b", len(steps) - 1, [posted("y")], ASKED), loop)
        appended.result(timeout=10)

    await asyncio.to_thread(copy_log, path, tmp_path / "copy.db", threading.Event(), step)
    assert steps == sorted(steps)
    assert len(steps) > 10
    assert log.head().position == 50 + len(steps)
    await log.close()
    assert len(await rows_of(tmp_path / "copy.db")) == 50


async def test_a_copy_stops_between_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("events.transfer.online_backup.PAGES", 1)
    await log_with(tmp_path / "log.db", *["x" * 3000] * 20)
    stop = threading.Event()
    with pytest.raises(BackupStopped):
        copy_log(tmp_path / "log.db", tmp_path / "copy.db", stop, lambda done, _: stop.set() if done > 3 else None)


async def test_an_interrupted_backup_leaves_nothing(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    for version in range(0, 4000, 400):
        await log.append("a", version, [posted("x" * 20_000)] * 400, ASKED)
    await log.close()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "backup", "kept.db"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", **environment(tmp_path, "http://127.0.0.1:9")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end_s = time.monotonic() + 20
    while not (tmp_path / "kept.db.partial").exists() and time.monotonic() < end_s and process.poll() is None:
        await asyncio.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    _, errors = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    assert list(tmp_path.glob("kept.db*")) == []
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    assert (await verify(log))[1] is None
    await log.close()
