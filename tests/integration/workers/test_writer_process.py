"""The process that writes the log for the workers is killed, stopped, replaced or kept from starting; clients see no
more of it than a pause.
"""

import asyncio
import fcntl
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.command_processes import is_alive
from tests.support.model.model_server import ModelServer
from tests.support.service import Program, frames
from tests.support.worker_processes import WAIT_TIMEOUT_S, create, metrics, two_workers, until

pytestmark = pytest.mark.real_part

PIECES = tuple(f"w{number} " for number in range(40))
TEXT = "".join(PIECES)
SETTINGS = {
    "CHATBOT_SERVER_WRITER_SILENT_S": "1",
    "CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.2",
    "CHATBOT_DATABASE_BUSY_TIMEOUT_S": "60",  # on a busy machine a process may take long to start
}


def writer_pid(started: Program) -> int:
    """Of the newest one."""
    return int(started.log("writer.ready")[-1]["pid"])


async def stream(client: httpx.AsyncClient) -> str:
    """A whole reply, over one connection."""
    body = {"session_id": await create(client), "message": "go"}
    async with client.stream("POST", "/api/chat/stream", json=body) as answer:
        return "".join([piece async for piece in answer.aiter_text()])


def check_whole(text: str) -> None:
    seen = frames(text)
    assert "".join(frame["content"] for frame in seen if frame["type"] == "chunk") == TEXT
    assert [frame["type"] for frame in seen[-2:]] == ["complete", "done"]


async def test_streams_and_turns_go_on_while_the_writer_is_killed_and_stopped(
    tmp_path: Path, model: ModelServer
) -> None:
    """Every session that was acknowledged is there at the end, and every stream has come to its end."""
    model.script(times=None, pieces=PIECES, delay_s=0.05)
    sessions: list[str] = []
    is_done = False

    async def ask(client: httpx.AsyncClient) -> None:
        while not is_done:
            sessions.append(await create(client))
            await asyncio.sleep(0.01)

    async with two_workers(tmp_path, model, **SETTINGS) as started, AsyncExitStack() as stack:
        made = [httpx.AsyncClient(base_url=started.url, timeout=30) for _ in range(12)]
        clients = [await stack.enter_async_context(client) for client in made]
        for number in (signal.SIGKILL, signal.SIGSTOP):
            streams = [asyncio.create_task(stream(client)) for client in clients[:8]]
            is_done = False
            asking = [asyncio.create_task(ask(client)) for client in clients[8:]]
            await until(lambda: len(model.requests) % 8 == 0 and len(model.requests) > 0)
            pid = writer_pid(started)
            os.kill(pid, number)
            await until(lambda pid=pid: writer_pid(started) != pid)  # type: ignore[misc]  # default
            for text in await asyncio.gather(*streams):
                check_whole(text)
            is_done = True
            await asyncio.gather(*asking)
            assert not is_alive(pid)
        (ended, stopped) = started.log("writer.ended")
        assert (ended["code"], ended["again_in_s"]) == (-signal.SIGKILL, 0)
        assert "did not answer" in stopped["reason"]
        for session_id in sessions:
            assert (await clients[0].get(f"/api/sessions/{session_id}")).status_code == 200
        text = await metrics(started.url)
        assert "chatbot_writer_restarts_total 2.0" in text
        assert 'chatbot_commit_seconds_count{worker="writer"}' in text
        assert (await started.stop()) == 0
    assert not (tmp_path / "chatbot.db-wal").exists()
    assert not (tmp_path / "projections.db-wal").exists()


async def test_without_a_writer_workers_answer_reads_and_refuse_writes_until_one_can_start(
    tmp_path: Path, model: ModelServer
) -> None:
    async with (
        two_workers(tmp_path, model, CHATBOT_DATABASE_BUSY_TIMEOUT_S="0.5") as started,
        httpx.AsyncClient(base_url=started.url, timeout=30) as client,
    ):
        session_id = await create(client)
        await client.post("/api/chat", json={"session_id": session_id, "message": "kept"})
        await client.get(f"/api/sessions/{session_id}/messages")  # so it is folded
        started.process.send_signal(signal.SIGSTOP)  # the master: meanwhile nobody starts a writer
        os.kill(writer_pid(started), signal.SIGKILL)
        lock = os.open(tmp_path / "chatbot.db-lock", os.O_RDWR)
        await until(lambda: _is_locked_by_us(lock))
        started.process.send_signal(signal.SIGCONT)
        await until(lambda: len(started.log("writer.ended")) >= 2)
        assert (await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"][0]["content"] == "kept"
        refused = await client.post("/api/chat", json={"session_id": session_id, "message": "refused"})
        assert refused.status_code == 503
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            while (ready := await client.get("/readyz")).status_code == 200:
                await asyncio.sleep(0.05)
        assert "writes the log" in ready.json()["reason"]
        os.close(lock)
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
        answer = await client.post("/api/chat", json={"session_id": session_id, "message": "again"})
        assert answer.json()["content"] == "You said: again"
        assert len(started.log("worker.ready")) == 2


def _is_locked_by_us(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
