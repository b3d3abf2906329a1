"""The whole program on a disk that fills up, under another program's lock, and with its projections taken away."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from events.integrity.chain_verifier import verify
from events.options import LogOptions
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_files import fill, foreign, small_disk
from tests.support.model.model_server import ModelServer
from tests.support.service import Program, program

DISK_KIB = 6 * 1024
LONG = "x" * 30_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_KIB) as directory:
        yield directory


def client_of(running: Program) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.url, timeout=20)


async def create(client: httpx.AsyncClient) -> str:
    return str((await client.post("/api/sessions")).json()["session_id"])


async def post(client: httpx.AsyncClient, session_id: str, message: str) -> httpx.Response:
    return await client.post("/api/chat", json={"session_id": session_id, "message": message})


async def history(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/api/sessions/{session_id}/messages", params={"limit": 1000})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["messages"])


async def until_answered(client: httpx.AsyncClient, session_id: str, message: str) -> dict[str, Any]:
    """The reply to `message`; refusals before it must be orderly."""
    async with asyncio.timeout(15):
        while (answer := await post(client, session_id, message)).status_code != 200:
            check_refusal(answer)
            await asyncio.sleep(0.1)
    return dict(answer.json())


def check_refusal(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert answer.headers["Retry-After"]


async def check_log(path: Path) -> None:
    log = await SqliteLog.open(path, LogOptions(), read_only=True)
    _, fault = await verify(log)
    await log.close()
    assert fault is None


async def test_a_full_disk_refuses_what_must_be_recorded_and_goes_on_when_there_is_room(
    disk: Path, model: ModelServer
) -> None:
    async with program(disk, model.url) as running, client_of(running) as client:
        session_id, stuck_id = await create(client), await create(client)
        told = [(await post(client, session_id, f"before {number}")).json() for number in range(3)]
        model.script(pieces=("a" * 40_000, "b" * 40_000), hold_after=1)
        stuck = asyncio.create_task(post(client, stuck_id, "ends while the disk is full"))
        await model.wait_requests(4)
        ballast = fill(disk)
        refused = 0
        async with asyncio.timeout(20):
            while refused < 3:  # what room the files still hold is used first
                answer = await post(client, session_id, LONG)
                if answer.status_code == 200:
                    told.append(answer.json())
                else:
                    check_refusal(answer)
                    refused += 1
        not_ready = await client.get("/readyz")
        assert (not_ready.status_code, not_ready.json()["status"]) in ((503, "unwritable"), (503, "unreadable"))
        model.release()
        check_refusal(await stuck)
        health = await client.get("/api/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        path = f"/api/sessions/{session_id}/messages"
        read = await client.get(path, params={"limit": 1000})
        before = read.json()["messages"] if read.status_code == 200 else []
        if before:
            assert {one["message_id"] for one in told} <= {one["message_id"] for one in before}
        else:  # what was recorded last has no room in the projections: better no history than one that lacks it
            check_refusal(read)
        ballast.unlink()
        async with asyncio.timeout(20):  # nobody sends requests to a service that is not ready: it recovers by itself
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.1)
        assert (await client.get("/api/health")).json()["status"] == "healthy"
        await until_answered(client, session_id, "there is room")
        async with asyncio.timeout(20):  # the projections may be between two attempts
            while (read := await client.get(path, params={"limit": 1000})).status_code != 200:
                check_refusal(read)
                await asyncio.sleep(0.1)
        after = read.json()["messages"]
        assert after[: len(before)] == before
        assert {one["message_id"] for one in told} <= {one["message_id"] for one in after}
        assert [one["content"] for one in after if one["role"] == "user"].count(LONG) == len(told) - 3
        async with asyncio.timeout(10):
            while (last := (await history(client, stuck_id))[-1])["status"] == "streaming":
                await asyncio.sleep(0.1)
        assert (last["status"], last["content"]) == ("complete", "a" * 40_000 + "b" * 40_000)
        assert (await until_answered(client, stuck_id, "and on"))["status"] == "complete"
        assert await running.stop() == 0
    await check_log(disk / "chatbot.db")


async def test_another_programs_lock_refuses_for_as_long_as_it_is_held(tmp_path: Path, model: ModelServer) -> None:
    limits = {"CHATBOT_DATABASE_BUSY_TIMEOUT_S": "0.2"}
    async with program(tmp_path, model.url, **limits) as running, client_of(running) as client:
        session_id = await create(client)
        told = (await post(client, session_id, "before")).json()
        model.script(pieces=("ends ", "under the lock"), hold_after=1)
        stuck_id = await create(client)
        stuck = asyncio.create_task(post(client, stuck_id, "hi"))
        await model.wait_requests(2)
        other = await asyncio.to_thread(foreign, tmp_path / "chatbot.db", "BEGIN IMMEDIATE")
        try:
            answer = await post(client, session_id, "refused")
            check_refusal(answer)
            assert str(tmp_path) not in answer.text, "a path of this machine is nobody's business"
            model.release()
            check_refusal(await stuck)
            assert (await history(client, session_id))[-1]["message_id"] == told["message_id"]
        finally:
            other.execute("ROLLBACK")
            other.close()
        await until_answered(client, session_id, "after")
        async with asyncio.timeout(10):
            while (last := (await history(client, stuck_id))[-1])["status"] == "streaming":
                await asyncio.sleep(0.1)
        assert (last["status"], last["content"]) == ("complete", "ends under the lock")
        users = [one["content"] for one in await history(client, session_id) if one["role"] == "user"]
        assert users == ["before", "after"]


def delete(path: Path) -> None:
    for file in path.parent.glob("projections.db*"):
        if not file.name.endswith("-lock"):
            file.unlink()


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(range(256)) * (path.stat().st_size // 256 + 1))
    path.with_name("projections.db-wal").write_bytes(b"garbage" * 1000)


def drop_tables(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TABLE messages")
    connection.close()


@pytest.mark.parametrize("harm", [delete, overwrite, drop_tables], ids=lambda harm: str(harm.__name__))
async def test_projections_that_are_harmed_while_running_are_made_again_with_the_same_answers(
    tmp_path: Path, model: ModelServer, harm: Any
) -> None:
    async with program(tmp_path, model.url) as running, client_of(running) as client:
        ids = [await create(client) for _ in range(3)]
        for session_id in ids:
            assert (await post(client, session_id, "before")).status_code == 200
        before = [await history(client, session_id) for session_id in ids]
        await asyncio.sleep(1.1)  # as often does it look whether its file is still there
        await asyncio.to_thread(harm, tmp_path / "projections.db")
        await until_answered(client, ids[0], "after")
        async with asyncio.timeout(15):
            while (answer := await client.get(f"/api/sessions/{ids[1]}/messages")).status_code != 200:
                check_refusal(answer)
                await asyncio.sleep(0.1)
        after = [await history(client, session_id) for session_id in ids]
        assert after[1:] == before[1:]
        assert after[0][:2] == before[0]
        assert [one["content"] for one in after[0][2:]] == ["after", "You said: after"]
        assert (await client.get("/readyz")).status_code == 200
        await create(client)
        assert await running.stop() == 0
    assert (tmp_path / "projections.db").exists()
    assert not running.log("task.ended")
    await check_log(tmp_path / "chatbot.db")
