"""A client that closes its sending side once it has asked gets all of its answer; one that has left is noticed."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest

from chatbot.api.streaming import response_stream
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, frames, program

JSON = "Content-Type: application/json\r\n"


def post(path: str, body: object, *, chunked: bool = False, version: str = "1.1") -> bytes:
    encoded = json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: 127.0.0.1\r\n{JSON}"
    if chunked:
        return f"{head}Transfer-Encoding: chunked\r\n\r\n{len(encoded):x}\r\n".encode() + encoded + b"\r\n0\r\n\r\n"
    return f"{head}Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


async def ask(url: httpx.URL, request: bytes, *, closes_after_s: float = 0.0) -> bytes:
    """All that comes until the service closes the connection."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request)
    if closes_after_s:
        await asyncio.sleep(closes_after_s)
    writer.write_eof()
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("closes_after_s", [0.0, 0.05])
@pytest.mark.parametrize("form", ["length", "chunked", "http-1.0"])
async def test_a_post_is_answered_once_the_reply_is_there(
    service: Running, model: ModelServer, form: str, closes_after_s: float
) -> None:
    model.script(pieces=("Hello ", "world"), delay_s=0.1)
    body = {"session_id": await service.session(), "message": "hi"}
    request = post("/api/chat", body, chunked=form == "chunked", version="1.0" if form == "http-1.0" else "1.1")
    answer = await ask(service.client.base_url, request, closes_after_s=closes_after_s)
    assert answer.startswith(b"HTTP/1.")
    assert b" 200 OK" in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["content"] == "Hello world"


async def test_a_streamed_reply_and_a_feed_reach_their_end(service: Running, model: ModelServer) -> None:
    model.script(pieces=("Hello ", "world"), delay_s=0.1)
    session_id = await service.session()
    url = service.client.base_url
    following = asyncio.create_task(ask(url, get(f"/api/sessions/{session_id}/stream?after=0")))
    streamed = await ask(url, post("/api/chat/stream", {"session_id": session_id, "message": "hi"}, version="1.0"))
    *_, complete, done = frames(streamed.decode())
    assert (complete["full_response"], done["type"]) == ("Hello world", "done")
    await service.client.delete(f"/api/sessions/{session_id}")
    followed = (await following).decode()
    assert '"deleted"' in followed
    assert "[DONE]" in followed


async def test_requests_that_were_sent_together_are_all_answered(service: Running) -> None:
    answers = await ask(service.client.base_url, get("/livez") + post("/api/sessions", {}) + get("/readyz"))
    assert re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answers) == [b"200", b"201", b"200"]


async def test_a_request_that_is_not_whole_ends_with_what_its_client_sends(service: Running) -> None:
    for request in (b"", b"GET /livez HT", post("/api/sessions", {"title": "x" * 100})[:-5]):
        answer = await ask(service.client.base_url, request)
        assert b" 201 " not in answer
    assert service.services.log.head().position == 0


async def test_a_reader_that_has_left_is_noticed_by_a_ping(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_stream, "PROBE_PING_S", 0.05)
    session_id = await service.session()
    url = service.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(get(f"/api/sessions/{session_id}/stream"))
    await reader.readuntil(b'"session"')
    assert service.services.feeds.count == 1
    writer.close()
    async with asyncio.timeout(10):
        while service.services.feeds.count:
            await asyncio.sleep(0.01)


async def test_a_reader_that_only_listens_is_pinged_and_kept(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_stream, "PROBE_PING_S", 0.02)
    session_id = await service.session()
    url = service.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(get(f"/api/sessions/{session_id}/stream"))
    await reader.readuntil(b'"session"')
    writer.write_eof()
    async with asyncio.timeout(10):
        for _ in range(3):
            await reader.readuntil(b": ping\n\n")
    assert service.services.feeds.count == 1
    writer.close()


async def test_the_program_answers_with_its_own_event_loop_too(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running:
        url = httpx.URL(running.url)
        created = await ask(url, post("/api/sessions", {}))
        assert b" 201 Created" in created.splitlines()[0]
        session_id = json.loads(created.partition(b"\r\n\r\n")[2])["session_id"]
        streamed = await ask(url, post("/api/chat/stream", {"session_id": session_id, "message": "hi"}))
        assert b"[DONE]" in streamed
