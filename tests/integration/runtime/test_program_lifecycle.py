"""`python run.py` as a person meets it: starting, refusing to start, stopping, starting again."""

import asyncio
import json
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.command_processes import run_command, run_command_blocking
from tests.support.model.model_server import ModelServer
from tests.support.programs.notify_socket import notify_socket
from tests.support.service import Program, frames, program
from tests.support.worker_processes import until


async def create(client: httpx.AsyncClient) -> str:
    return str((await client.post("/api/sessions")).json()["session_id"])


async def chat(client: httpx.AsyncClient, session_id: str, message: str) -> Any:
    return (await client.post("/api/chat", json={"session_id": session_id, "message": message})).json()


async def messages_of(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    return list((await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"])


async def test_a_conversation_goes_on_after_a_restart(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as first, httpx.AsyncClient(base_url=first.url) as client:
        session_id = await create(client)
        await chat(client, session_id, "one")
        before = (await client.get(f"/api/sessions/{session_id}/messages")).json()
        assert await first.stop() == 0
    stages = [json.loads(line)["event"] for line in first.output if '"drain.' in line]
    assert stages == ["drain.not_ready", "drain.replies", "drain.feeds", "drain.listener", "drain.done"]
    assert not (tmp_path / "chatbot.db-wal").exists()
    async with program(tmp_path, model.url) as second, httpx.AsyncClient(base_url=second.url) as client:
        assert (await client.get(f"/api/sessions/{session_id}/messages")).json() == before
        await chat(client, session_id, "two")
        assert [m["content"] for m in model.requests[-1].body["messages"]] == ["one", "You said: one", "two"]


async def test_the_same_answers_come_back_when_the_projections_are_deleted(tmp_path: Path, model: ModelServer) -> None:
    paths = ["/api/sessions", "/api/usage"]
    async with program(tmp_path, model.url) as first, httpx.AsyncClient(base_url=first.url) as client:
        ids = [await create(client) for _ in range(3)]
        for session_id in ids:
            await chat(client, session_id, "hello")
        await client.delete(f"/api/sessions/{ids[0]}")
        paths += [f"/api/sessions/{session_id}/messages" for session_id in ids]
        before = [(await client.get(path)).text for path in paths]
        assert await first.stop() == 0
    for path in tmp_path.glob("projections.db*"):
        path.unlink()
    async with program(tmp_path, model.url) as second, httpx.AsyncClient(base_url=second.url) as client:
        after = [(await client.get(path)).text for path in paths]
    strip = [text.replace(first.url, "") for text in before]
    assert [json.loads(t) for t in after[:2]] == [json.loads(t) for t in strip[:2]]
    assert after[3:] == before[3:]


async def test_a_server_without_a_session_replaces_a_damaged_projections_file(
    tmp_path: Path, model: ModelServer
) -> None:
    (tmp_path / "projections.db").write_text("no database " * 100)
    async with program(tmp_path, model.url) as started, httpx.AsyncClient(base_url=started.url) as client:
        await create(client)
        assert await started.stop() == 0


async def test_a_reply_left_open_by_a_kill_is_interrupted_with_its_checkpointed_text(
    tmp_path: Path, model: ModelServer
) -> None:
    model.script(pieces=("kept ", "text ", "lost"), hold_after=2)
    async with (
        program(tmp_path, model.url, CHATBOT_STREAM_CHECKPOINT_INTERVAL_S="0.05") as first,
        httpx.AsyncClient(base_url=first.url) as client,
    ):
        session_id = await create(client)
        posted = asyncio.create_task(chat(client, session_id, "one"))
        waiting = asyncio.create_task(chat(client, session_id, "two"))
        async with asyncio.timeout(20):  # both messages and a checkpoint are on record
            while [one["content"] for one in await messages_of(client, session_id)] != ["one", "kept text ", "two", ""]:
                await asyncio.sleep(0.02)
        await first.kill()
        for task in (posted, waiting):
            with pytest.raises(httpx.TransportError):
                await task
    async with program(tmp_path, model.url) as second, httpx.AsyncClient(base_url=second.url) as client:
        assert second.log("server.ready")[0]["recovered_sessions"] == 1
        messages = await messages_of(client, session_id)
        assert [(m["role"], m["status"], m["content"]) for m in messages] == [
            ("user", "complete", "one"),
            ("assistant", "interrupted", "kept text "),
            ("user", "complete", "two"),
            ("assistant", "interrupted", ""),
        ]
        assert (await chat(client, session_id, "three"))["status"] == "complete"
    assert len(model.requests) == 2  # nothing was asked again by itself


async def test_a_drain_lets_replies_finish_refuses_new_ones_and_interrupts_what_takes_too_long(
    tmp_path: Path, model: ModelServer
) -> None:
    limits = {"CHATBOT_SERVER_DRAIN_GRACE_S": "3"}
    async with program(tmp_path, model.url, **limits) as running, httpx.AsyncClient(base_url=running.url) as client:
        quick, slow = await create(client), await create(client)
        model.script(pieces=("a ", "b"), delay_s=0.2)
        model.script(pieces=("x ", "y"), hold_after=1)
        finishing = asyncio.create_task(chat(client, quick, "one"))
        await model.wait_requests(1)
        hanging = asyncio.create_task(client.post("/api/chat/stream", json={"session_id": slow, "message": "two"}))
        await model.wait_requests(2)
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: running.log("drain.replies"))
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        refused = await client.post("/api/chat", json={"session_id": quick, "message": "late"})
        assert refused.status_code == 503
        assert (await finishing)["content"] == "a b"
        *_, error, done = frames((await hanging).text)
        assert (error["type"], error["status"]) == ("error", "interrupted")
        assert done["type"] == "done"
        assert await running.ended() == 0


async def test_a_second_ctrl_c_quits_at_once_and_loses_nothing_acknowledged(tmp_path: Path, model: ModelServer) -> None:
    model.script(times=None, pieces=("x ", "y"), hold_after=1)
    async with program(tmp_path, model.url) as running, httpx.AsyncClient(base_url=running.url) as client:
        session_id = await create(client)
        hanging = asyncio.create_task(chat(client, session_id, "one"))
        await model.wait_requests()
        running.process.send_signal(signal.SIGINT)
        await until(lambda: running.log("drain.replies"))
        running.process.send_signal(signal.SIGINT)
        assert await running.ended(timeout_s=8) == 130, "before the 10 seconds that replies are given"
        with pytest.raises(httpx.TransportError):
            await hanging
    async with program(tmp_path, model.url) as again, httpx.AsyncClient(base_url=again.url) as client:
        messages = await messages_of(client, session_id)
        assert [m["status"] for m in messages] == ["complete", "interrupted"]


async def test_a_second_server_on_the_same_database_is_refused(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running:
        refused = await run_command(tmp_path)
        assert refused.returncode == 3
        assert str(running.process.pid) in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_in_use_is_refused_before_anything_is_made(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {"DATABASE_URL": str(tmp_path / "other" / "x.db"), "PORT": port, "CHATBOT_SERVER_WORKERS": workers}
        refused = await run_command(tmp_path, **settings)
    assert refused.returncode == 4
    assert f"127.0.0.1:{port}: Address already in use" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def _without_nohup() -> Iterator[None]:
    """Programs that a test starts inherit from it that SIGHUP is ignored."""
    kept = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, kept)


@pytest.mark.usefixtures("_without_nohup")
async def test_a_hang_up_drains_and_a_second_one_changes_nothing(tmp_path: Path, model: ModelServer) -> None:
    model.script(pieces=("a ", "b"), hold_after=1)
    async with program(tmp_path, model.url) as running, httpx.AsyncClient(base_url=running.url) as client:
        session_id = await create(client)
        hanging = asyncio.create_task(chat(client, session_id, "one"))
        await model.wait_requests()
        running.process.send_signal(signal.SIGHUP)
        await until(lambda: running.log("drain.replies"))
        running.process.send_signal(signal.SIGHUP)
        model.release()
        assert (await hanging)["content"] == "a b"
        assert await running.ended() == 0
    (asked,) = running.log("stop.asked")
    assert (asked["signal"], "second Ctrl-C" in asked["hint"]) == ("SIGHUP", True)


async def test_systemd_is_told_when_the_service_is_ready_and_when_it_stops(tmp_path: Path, model: ModelServer) -> None:
    with notify_socket() as systemd:
        async with program(tmp_path, model.url, NOTIFY_SOCKET=systemd.address) as running:
            await until(lambda: systemd.received() == ["READY"])
            assert await running.stop() == 0
        assert systemd.received() == ["READY", "STOPPING"]


def test_wrong_settings_stop_the_start_and_are_all_named(tmp_path: Path) -> None:
    refused = run_command_blocking(tmp_path, PORT="eighty", CHATBOT_SESSIONS_IDLE_TIMEOUT="5")
    assert refused.returncode == 2
    for part in ("PORT", "eighty", "65535", "CHATBOT_SESSIONS_IDLE_TIMEOUT_S"):
        assert part in refused.stderr


def test_the_seeds_own_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    seed = sqlite3.connect(path)
    seed.execute("CREATE TABLE sessions (session_id TEXT PRIMARY KEY)")
    seed.commit()
    seed.close()
    before = path.read_bytes()
    refused = run_command_blocking(tmp_path)
    assert refused.returncode == 3
    assert str(path) in refused.stderr
    assert path.read_bytes() == before


async def test_a_log_written_by_a_newer_program_is_refused(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running, httpx.AsyncClient(base_url=running.url) as client:
        await create(client)
        await running.stop()
    log = sqlite3.connect(tmp_path / "chatbot.db")
    log.execute(
        "INSERT INTO events SELECT 2, 'a', 1, 'mood_changed', 1, recorded_at, metadata, data, salt, commitment, digest"
        " FROM events"
    )
    log.commit()
    log.close()
    refused = await run_command(tmp_path)
    assert refused.returncode == 3
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "mood_changed" in error
    assert "newer" in error
    assert "Traceback" not in refused.stderr


async def test_verify_holds_beside_a_running_server_and_finds_a_changed_word(
    tmp_path: Path, model: ModelServer
) -> None:
    async with program(tmp_path, model.url) as running, httpx.AsyncClient(base_url=running.url) as client:
        session_id = await create(client)
        await chat(client, session_id, "I owe you 10")
        held = await run_command(tmp_path, "verify")
        assert held.returncode == 0
        assert "4 events" in held.stdout
        await running.stop()
    log = sqlite3.connect(tmp_path / "chatbot.db")
    for (name,) in log.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        log.execute(f"DROP TRIGGER {name}")
    log.execute("UPDATE events SET data = replace(data, 'owe you 10', 'owe you 99') WHERE position = 2")
    log.commit()
    log.close()
    broken = await run_command(tmp_path, "verify")
    assert broken.returncode == 1
    assert "position 2" in broken.stderr
    missing = await run_command(tmp_path, "verify", DATABASE_URL=str(tmp_path / "none.db"))
    assert missing.returncode == 3


def test_help_and_config_are_worth_reading(tmp_path: Path) -> None:
    helped = run_command_blocking(tmp_path, "--help")
    assert helped.returncode == 0
    for part in ("config", "--reload", "LLM_SERVER_URL", "exit codes"):
        assert part in helped.stdout
    shown = run_command_blocking(tmp_path, "config", "--port", "9999", CHATBOT_API_KEYS="mina:a-very-long-secret")
    assert shown.returncode == 0
    assert "9999" in shown.stdout
    assert "a-very-long-secret" not in shown.stdout
    assert "DATABASE_URL" in shown.stdout


async def test_the_seeds_settings_serve_without_keys_with_one_warning(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url, HOST="0.0.0.0", CORS_ORIGINS="*") as running:
        page = {"Origin": "https://page.example", "Sec-Fetch-Site": "cross-site", "Host": "chat.example.org"}
        async with httpx.AsyncClient(base_url=running.url) as client:
            created = await client.post("/api/sessions", headers=page)
        assert (created.status_code, created.headers["Access-Control-Allow-Origin"]) == (201, "*")
        (warning,) = [line for line in running.output if '"level":"warning"' in line]
        assert "NO API KEY IS CONFIGURED" in warning
    refused = await run_command(tmp_path, HOST="0.0.0.0", CHATBOT_AUTH_REQUIRE_KEYS="true")
    assert refused.returncode == 2
    assert "auth.require_keys" in refused.stderr


async def test_the_log_lines_hold_no_texts_keys_or_ids(tmp_path: Path, model: ModelServer) -> None:
    secret = "a-very-long-secret"
    async with program(tmp_path, model.url, CHATBOT_API_KEYS=f"mina:{secret}", DEBUG="true") as running:
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(base_url=running.url, headers=headers) as client:
            session_id = await create(client)
            await chat(client, session_id, "PRIVATE words")
            await client.post("/api/chat", json={"session_id": session_id, "message": "PRIVATE", "temperature": 9})
            assert (await client.get("/metrics")).status_code == 200
        await running.stop()
    written = "".join(running.output)
    for private in ("PRIVATE", secret, session_id):
        assert private not in written


async def test_reload_starts_again_when_settings_change(tmp_path: Path, model: ModelServer) -> None:
    reloading = await Program.start(tmp_path, model.url, "--reload")
    try:
        (tmp_path / ".env").write_text("DEFAULT_MAX_TOKENS=99\n")
        await until(lambda: len(reloading.log("server.ready")) == 2)
    finally:
        assert await reloading.stop() == 0
