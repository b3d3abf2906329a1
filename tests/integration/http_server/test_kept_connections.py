"""Requests of one connection are answered in turn, until the connection is closed."""

import asyncio
import gc
from pathlib import Path

import pytest
from aiohttp import StreamReader, web
from structlog.testing import capture_logs

from chatbot.api.server.http_server import HttpServer
from tests.integration.http_server.test_half_closed_connections import ask, get, post
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

QUEUED_MAX = 32  # requests that aiohttp parses ahead


async def test_more_requests_than_are_read_ahead_are_answered_in_their_order(service: Running) -> None:
    titles = [f"number {one}" for one in range(3 * QUEUED_MAX)]
    requests = b"".join(
        [post("/api/sessions", {"title": one}, chunked=index % 3 == 0) for index, one in enumerate(titles)]
    )
    answers = (await ask(service.client.base_url, requests)).split(b"HTTP/1.1 201 Created\r\n")[1:]
    assert [one for one, answer in zip(titles, answers, strict=True) if f'"{one}"'.encode() not in answer] == []


async def test_others_have_their_turn_between_the_requests_that_a_client_sends_together(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, seen, find_refusal = 0, [], HttpServer.find_refusal

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    def note_round(server: HttpServer, request: web.BaseRequest) -> web.Response | None:
        seen.append(rounds)
        return find_refusal(server, request)

    monkeypatch.setattr(HttpServer, "find_refusal", note_round)
    counting = asyncio.create_task(count_rounds())
    await ask(service.client.base_url, get("/livez") * (3 * QUEUED_MAX))
    counting.cancel()
    assert len(seen) == 3 * QUEUED_MAX
    assert sorted(set(seen)) == seen


async def test_a_connection_is_closed_once_it_has_been_idle_for_long(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SERVER_KEEPALIVE_TIMEOUT_S="1.2") as service:
        url = service.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        async with asyncio.timeout(10):
            for _ in range(3):  # as a whole longer than a connection may be idle
                await asyncio.sleep(0.45)
                writer.write(get("/livez"))
                assert await reader.readuntil(b"}") != b""
            assert await reader.read() == b""
        writer.close()


async def test_a_failure_of_the_server_itself_is_logged_answered_and_ends_the_connection(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: HttpServer, request: web.BaseRequest) -> None:
        raise LookupError(request.path)

    monkeypatch.setattr(HttpServer, "find_refusal", fail)
    with capture_logs() as logs:
        answer = await ask(service.client.base_url, get("/livez") * 2)
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in answer
    assert [one["error"] for one in logs if one["event"] == "request.failed"] == ["LookupError"]


@pytest.mark.parametrize("size", [30_000, 4_000], ids=["length", "chunks"])
async def test_an_idle_connection_holds_no_body_that_nothing_has_read(service: Running, size: int) -> None:
    request, url = post("/livez", "x" * (size - 2)), service.client.base_url  # with two quotes
    if size == 4_000:
        head = b"POST /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        request = head + b"1\r\nx\r\n" * size + b"0\r\n\r\n"

    def held() -> list[int]:
        """Bytes and chunks of each such body."""
        gc.collect()
        found = [one for one in gc.get_objects() if isinstance(one, StreamReader) and one.total_bytes == size]
        return [sum(map(len, one._buffer)) + len(one._http_chunk_splits or ()) for one in found]

    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        while sum(held()) > 1:
            await asyncio.sleep(0.05)
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"Connection: close" not in head
    writer.close()
