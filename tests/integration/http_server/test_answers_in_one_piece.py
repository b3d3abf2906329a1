"""An answer whose head the service makes itself is on the wire as aiohttp would send it."""

import asyncio
import re

import httpx
import pytest

from chatbot.api.server.http_server import HttpProtocol
from tests.integration.http_server.test_half_closed_connections import ask, get, post
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

IDS = re.compile(rb"[0-9a-f-]{36}")
VARYING = re.compile(rb"(?m)^(Date|X-Request-ID): .*$")


def probe(*headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} /livez HTTP/{version}", "Host: 127.0.0.1", *headers, "", ""]).encode()


REQUESTS = [
    pytest.param(get("/livez"), id="get"),
    pytest.param(get("/livez") * 3, id="pipelined"),
    pytest.param(probe(method="HEAD"), id="head"),
    pytest.param(probe(version="1.0"), id="http 1.0"),
    pytest.param(probe("Connection: keep-alive", version="1.0"), id="http 1.0, kept"),
    pytest.param(probe("Connection: close"), id="close"),
    pytest.param(probe("Origin: http://127.0.0.1"), id="origin"),
    pytest.param(get("/livez/"), id="no such path"),
    pytest.param(get("/api/chat"), id="no such method"),
    pytest.param(get("/api/sessions/{session_id}"), id="a path like a route's template"),
    pytest.param(get("/api/sessions?limit=0"), id="refused query"),
]


@pytest.mark.parametrize("request_bytes", REQUESTS)
async def test_it_has_the_same_bytes(service: Running, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes) -> None:
    url = service.client.base_url
    answers = [await ask(url, request_bytes) for _ in range(2)]  # the second finds its route in memory
    monkeypatch.setattr(HttpProtocol, "_make_head", lambda *_: None)
    expected = VARYING.sub(b"", await ask(url, request_bytes))
    assert expected.startswith(b"HTTP/1.")
    assert [VARYING.sub(b"", one) for one in answers] == [expected, expected]


STREAMS = [
    pytest.param("/api/chat/stream", (), id="chat"),
    pytest.param("/v1/chat/completions", (), id="other headers"),
    pytest.param("/api/chat/stream", ("Origin: http://127.0.0.1",), id="origin"),
    pytest.param("/api/chat/stream", ("Connection: close",), id="close"),
]


@pytest.mark.parametrize(("path", "headers"), STREAMS)
async def test_a_stream_has_the_same_head(
    service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch, path: str, headers: tuple[str, ...]
) -> None:
    async def streamed() -> bytes:
        model.script(pieces=("Hello ", "world"))
        body: dict[str, object] = {"session_id": await service.session(), "message": "hi"}
        if path.startswith("/v1"):
            body = {"model": "fake-model", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        lines = "".join(f"{one}\r\n" for one in headers)
        request = post(path, body).replace(b"Host:", f"{lines}Host:".encode(), 1)
        answer = await ask(service.client.base_url, request, closes_after_s=0.3)  # /v1 takes an earlier end for leaving
        head, _, chunks = VARYING.sub(b"", answer).partition(b"\r\n\r\n")
        assert b"world" in chunks
        assert chunks.endswith(b"\r\n0\r\n\r\n")
        return IDS.sub(b"", head)

    answer = await streamed()
    monkeypatch.setattr(HttpProtocol, "_make_head", lambda *_: None)
    assert answer == await streamed()


async def test_the_first_frames_of_a_stream_come_with_its_head(service: Running, model: ModelServer) -> None:
    model.script(pieces=("Hello ", "world"), delay_s=0.2)
    url, body = service.client.base_url, {"session_id": await service.session(), "message": "hi"}
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(post("/api/chat/stream", body))
    async with asyncio.timeout(20):
        first = await reader.read(65_536)
    writer.close()
    assert first.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream")
    assert b'"type":"start"' in first


async def test_headers_of_an_answer_are_sent_with_it(service: Running) -> None:
    answer = await ask(service.client.base_url, post("/api/sessions", {"title": "Whole"}))
    names = [line.partition(b":")[0] for line in answer.partition(b"\r\n\r\n")[0].splitlines()[1:]]
    assert names == [
        b"Location",
        b"ETag",
        b"Content-Type",
        b"Content-Length",
        b"Date",
        b"Server",
        b"X-Request-ID",
        b"X-Content-Type-Options",
        b"Cache-Control",
    ]


async def test_the_answer_to_a_body_that_has_not_arrived_closes_the_connection(service: Running) -> None:
    url = service.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(probe("Content-Length: 5") + b"12")
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in head


async def test_a_route_found_before_serves_each_method_and_prefix_of_its_path(service: Running) -> None:
    client: httpx.AsyncClient = service.client
    for _ in range(2):
        assert (await client.get("/api/sessions")).status_code == 200
        assert (await client.post("/api/sessions", json={})).status_code == 201
        assert (await client.put("/api/sessions")).status_code == 405
        assert (await client.get("/api/%73essions")).status_code == 200
        assert (await client.get("/api/session")).status_code == 404


async def test_a_client_that_expects_to_be_told_to_continue_is_told_so(service: Running) -> None:
    request = post("/api/sessions", {}).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    answer = await ask(service.client.base_url, request)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n")
