"""What once went wrong, or could: each stays right."""

import asyncio
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from chatbot.observability.metrics import SessionMetrics
from events.catalogue import MessagePosted, ReplyCompleted, ReplyProgressed, ReplyStarted, SessionCreated, Usage
from events.catalogue import Parameters as NoParameters
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_files import foreign
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, program, serving

SESSION = "5b4f2c1e-0000-4000-8000-000000000001"


@pytest.mark.parametrize("count", ["true", "-1", "1.5", "99999999999999999999999999", '"7"', "null"])
async def test_an_odd_usage_of_the_model_is_no_usage_and_poisons_nothing(
    service: Running, model: ModelServer, count: str
) -> None:
    chunk = '{"choices":[{"index":0,"delta":{"content":"fine"},"finish_reason":"stop"}]}'
    usage = f'{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":{count}}}}}'
    model.script(raw=f"data: {chunk}\n\ndata: {usage}\n\ndata: [DONE]\n\n")
    session_id = await service.session()
    answer = await service.chat(session_id, "hi")
    assert (answer["content"], answer["token_usage"]) == ("fine", None)
    assert (await service.history(session_id))["messages"][-1]["token_usage"] is None
    assert (await service.client.get("/readyz")).status_code == 200


async def test_the_log_takes_no_event_that_could_not_be_read_back(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    try:
        poison = ReplyCompleted("r", "text", "stop", "m", 1, Usage(True, 1, 2))
        with pytest.raises(ValueError, match="Expected `int`"):
            await log.append(SESSION, 0, [poison], Metadata())
        assert log.head().position == 0
    finally:
        await log.close()


async def test_those_who_wait_hear_the_end_even_when_counting_it_fails(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no counting today")

    monkeypatch.setattr(SessionMetrics, "reply_ended", broken)
    session_id = await service.session()
    async with asyncio.timeout(5):
        assert (await service.chat(session_id, "hi"))["status"] == "complete"
    monkeypatch.undo()
    await asyncio.sleep(0.3)  # the actor's backoff
    assert (await service.chat(session_id, "again"))["status"] == "complete"


async def test_checkpoints_that_overlap_add_up_to_what_the_model_wrote(tmp_path: Path, model: ModelServer) -> None:
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    await log.append(
        SESSION,
        0,
        [
            SessionCreated(owner=None, metadata={}, timeout_s=3600),
            MessagePosted("m", None, "user", "count", reply_id="r"),
            ReplyStarted("r", "m", "node", "openai", "x", NoParameters(), ("m",)),
            ReplyProgressed("r", 0, "0123"),
            ReplyProgressed("r", 4, "45"),
            ReplyProgressed("r", 4, "4567"),
        ],
        Metadata(),
    )
    await log.close()
    async with serving(tmp_path, model.url) as service:
        last = (await service.history(SESSION))["messages"][-1]
    assert (last["status"], last["content"]) == ("interrupted", "01234567")


async def test_a_slow_disk_gets_one_checkpoint_at_a_time(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_STREAM_CHECKPOINT_INTERVAL_S="0.05") as service:
        model.script(pieces=tuple(f"{n:04} " for n in range(120)), delay_s=0.01)
        session_id = await service.session()
        chatting = asyncio.create_task(service.chat(session_id, "count"))
        await asyncio.sleep(0.2)
        other = await asyncio.to_thread(foreign, tmp_path / "chatbot.db", "BEGIN IMMEDIATE")
        await asyncio.sleep(0.6)
        other.close()
        await chatting
        recorded = await service.services.log.read(session_id, limit=1000)
        checkpoints = [one.event for one in recorded if isinstance(one.event, ReplyProgressed)]
        assert len(checkpoints) > 3
        ends = [0, *(one.offset + len(one.text) for one in checkpoints)]
        assert [one.offset for one in checkpoints] == ends[:-1]


async def test_every_short_session_expires_by_itself_soon(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        short = []
        for _ in range(4):
            body = {"timeout_hours": 1 / 3600}
            short.append((await service.client.post("/api/sessions", json=body)).json()["session_id"])
            await asyncio.sleep(0.3)
        async with asyncio.timeout(5):
            for session_id in short:
                while (await service.services.queries.session(session_id)).status == "active":  # type: ignore[union-attr]
                    await asyncio.sleep(0.05)


async def test_all_open_replies_are_closed_at_start_even_when_few_actors_may_live(
    tmp_path: Path, model: ModelServer
) -> None:
    model.script(times=None, pieces=("x", "y"), hold_after=1)
    async with program(tmp_path, model.url) as first, httpx.AsyncClient(base_url=first.url, timeout=30) as client:
        ids = [(await client.post("/api/sessions")).json()["session_id"] for _ in range(12)]
        bodies = [{"session_id": session_id, "message": "hi"} for session_id in ids]
        chats = [asyncio.create_task(client.post("/api/chat", json=body)) for body in bodies]
        async with asyncio.timeout(10):
            while len(model.requests) < 12:
                await asyncio.sleep(0.02)
        await first.kill()
        await asyncio.gather(*chats, return_exceptions=True)
    async with program(tmp_path, model.url, CHATBOT_SESSIONS_ACTIVE_MAX="4") as second:
        assert second.log("server.ready")[0]["recovered_sessions"] == 12
        async with httpx.AsyncClient(base_url=second.url) as client:
            for session_id in ids:
                messages = (await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"]
                assert messages[-1]["status"] == "interrupted"


async def test_a_session_can_be_read_while_nothing_can_be_recorded(tmp_path: Path, model: ModelServer) -> None:
    settings = {"CHATBOT_SESSIONS_ACCESS_RESOLUTION_S": "0", "CHATBOT_DATABASE_BUSY_TIMEOUT_S": "0.1"}
    async with serving(tmp_path, model.url, **settings) as service:
        session_id = await service.session()
        other = await asyncio.to_thread(foreign, tmp_path / "chatbot.db", "BEGIN IMMEDIATE")
        assert (await service.client.get(f"/api/sessions/{session_id}")).status_code == 200
        refused = await service.client.patch(f"/api/sessions/{session_id}", json={"title": "x"})
        assert refused.status_code == 503
        assert str(tmp_path) not in refused.text
        assert (await service.client.get("/api/health")).json()["status"] == "degraded"
        other.close()
        assert (await service.client.patch(f"/api/sessions/{session_id}", json={"title": "x"})).status_code == 200
        assert (await service.client.get("/api/health")).json()["status"] == "healthy"


async def test_a_stream_over_http_1_0_ends_with_the_connection(service: Running) -> None:
    session_id = await service.session()
    url = urlsplit(str(service.client.base_url))
    body = f'{{"session_id": "{session_id}", "message": "hi"}}'.encode()
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = "POST /api/chat/stream HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 200 OK" in answer.partition(b"\r\n")[0]
    assert answer.endswith(b"data: [DONE]\n\n")
    assert b"chunked" not in answer


async def test_an_interrupt_that_is_refused_interrupts_nothing(service: Running, model: ModelServer) -> None:
    model.script(pieces=("a ", "b"), hold_after=1)
    session_id = await service.session()
    first = asyncio.create_task(service.chat(session_id, "one"))
    while not model.requests:
        await asyncio.sleep(0.01)
    body = {"session_id": session_id, "message": "two", "on_busy": "interrupt", "parent_id": "nowhere"}
    assert (await service.client.post("/api/chat", json=body)).status_code == 422
    model.release()
    assert (await first)["content"] == "a b"


async def test_a_stranger_with_another_key_stops_nobodys_reply(tmp_path: Path, model: ModelServer) -> None:
    keys = "mina:secret-of-mina-123,jun:secret-of-jun-4567"
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=keys) as service:
        mina, jun = ({"Authorization": f"Bearer secret-of-{who}"} for who in ("mina-123", "jun-4567"))
        session_id = (await service.client.post("/api/sessions", headers=mina)).json()["session_id"]
        model.script(pieces=("a ", "b"), hold_after=1)
        body = {"session_id": session_id, "message": "hi", "on_busy": "interrupt"}
        first = asyncio.create_task(service.client.post("/api/chat", json=body, headers=mina))
        while not model.requests:
            await asyncio.sleep(0.01)
        for method, path in (("POST", "/api/chat"), ("POST", "/api/chat/stream")):
            assert (await service.client.request(method, path, json=body, headers=jun)).status_code == 404
        path = f"/api/sessions/{session_id}"
        assert (await service.client.post(f"{path}/cancel", headers=jun)).status_code == 404
        assert (await service.client.delete(path, headers=jun)).status_code == 404
        model.release()
        assert (await first).json()["content"] == "a b"


async def test_cancelling_while_nothing_can_be_recorded_ends_the_reply_later(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_DATABASE_BUSY_TIMEOUT_S="0.1") as service:
        model.script(pieces=("a ", "b"), hold_after=1)
        session_id = await service.session()
        chatting = asyncio.create_task(
            service.client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
        )
        while not model.requests:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):  # its start is on record
            while (await service.history(session_id))["messages"][-1]["status"] != "streaming":
                await asyncio.sleep(0.01)
        other = await asyncio.to_thread(foreign, tmp_path / "chatbot.db", "BEGIN IMMEDIATE")
        assert (await service.client.post(f"/api/sessions/{session_id}/cancel")).status_code == 503
        assert (await chatting).status_code == 503
        other.close()
        async with asyncio.timeout(5):
            while (await service.history(session_id))["messages"][-1]["status"] == "streaming":
                await asyncio.sleep(0.05)
        assert (await service.history(session_id))["messages"][-1]["status"] == "cancelled"
        assert (await service.chat(session_id, "again"))["status"] == "complete"


async def test_a_reader_that_takes_nothing_is_let_go_and_the_reply_goes_on(tmp_path: Path, model: ModelServer) -> None:
    settings = {"CHATBOT_STREAM_WRITE_TIMEOUT_S": "0.5", "CHATBOT_LLM_REPLY_MAX_CHARS": "20000000"}
    async with serving(tmp_path, model.url, **settings) as service:
        model.script(pieces=("x" * 500_000,) * 24, delay_s=0.02)
        session_id = await service.session()
        url = urlsplit(str(service.client.base_url))
        asleep = socket.socket()
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asleep.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(asleep, (url.hostname, url.port))
        body = f'{{"session_id": "{session_id}", "message": "hi"}}'.encode()
        head = "POST /api/chat/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        await loop.sock_sendall(asleep, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(20):
            while not model.requests:
                await asyncio.sleep(0.01)
            streams = service.services.metrics.registry.get_sample_value
            assert streams("chatbot_open_streams") == 1
            while streams("chatbot_open_streams") != 0:
                await asyncio.sleep(0.05)
            while (last := (await service.history(session_id))["messages"][-1])["status"] == "streaming":
                await asyncio.sleep(0.1)
        assert (last["status"], len(last["content"])) == ("complete", 12_000_000)
        received = 0
        while taken := await loop.sock_recv(asleep, 1 << 20):
            received += len(taken)
        asleep.close()
        assert received < 12_000_000  # the connection was closed under what it had not taken
