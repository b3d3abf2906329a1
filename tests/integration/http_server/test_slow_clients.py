"""Clients that read nothing, or say nothing: what the service holds for them has bounds."""

import asyncio
import contextlib
import errno
import json
import re
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from chatbot.api.request_limits import BODIES
from chatbot.api.responses import PIECE_BYTES
from chatbot.api.server import http_server
from chatbot.api.server.http_server import HttpServer
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

GET = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LARGE = "/redoc/redoc.standalone.js"  # a megabyte, as no Accept-Encoding is sent


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[HttpServer]:
    """Every HTTP server that is made from now on."""
    made: list[HttpServer] = []
    init = HttpServer.__init__

    def noted(self: HttpServer, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr(HttpServer, "__init__", noted)
    return made


class Client:
    """A connection that takes nothing until it is told to."""

    def __init__(self, service: Running) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect((service.client.base_url.host, service.client.base_url.port))
        self.socket.setblocking(False)

    def ask(self, path: str) -> None:
        self.socket.sendall(GET.format(path).encode())

    async def rest(self) -> bytes:
        """All that comes until the end of the connection."""
        found = b""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                while piece := await loop.sock_recv(self.socket, 65_536):
                    found += piece
        return found


@pytest.fixture
def clients() -> Iterator[Callable[[Running], Client]]:
    made: list[Client] = []

    def connect(service: Running) -> Client:
        made.append(Client(service))
        return made[-1]

    yield connect
    for one in made:
        one.socket.close()


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def bounded(
    tmp_path: Path, model: ModelServer, servers: list[HttpServer], **settings: str
) -> AsyncIterator[tuple[Running, HttpServer]]:
    async with serving(tmp_path, model.url, CHATBOT_SERVER_STREAM_CLOSE_TIMEOUT_S="0", **settings) as running:
        yield running, servers[0]


async def test_an_unread_answer_holds_a_piece_and_ends_with_its_time(
    tmp_path: Path, model: ModelServer, servers: list[HttpServer], clients: Callable[[Running], Client]
) -> None:
    settings = {"CHATBOT_SERVER_WRITE_TIMEOUT_S": "0.3", "CHATBOT_LOGGING_ACCESS_LOG": "true"}
    with capture_logs() as lines:
        async with bounded(tmp_path, model, servers, **settings) as (service, server):
            for path in (LARGE, "/openapi.json"):
                client = clients(service)
                for _ in range(40):  # what the system's buffers take for it is no matter of ours
                    client.ask(path)
                await until(lambda: server.open_connections.unread_bytes > 0)
                assert server.open_connections.unread_bytes <= 2 * PIECE_BYTES
                await until(lambda: server.open_connections.unread_bytes == 0)
            metrics = (await service.client.get("/metrics")).text
            assert 'chatbot_connections_closed_total{reason="write_timeout"} 2.0' in metrics
    assert {(line["client_left"], line["cut"]) for line in lines if line.get("cut")} == {(False, "write_timeout")}


async def test_a_client_that_leaves_while_its_answer_is_sent_is_in_the_access_log(
    tmp_path: Path, model: ModelServer, servers: list[HttpServer], clients: Callable[[Running], Client]
) -> None:
    with capture_logs() as lines:
        async with bounded(tmp_path, model, servers, CHATBOT_LOGGING_ACCESS_LOG="true") as (service, server):
            client = clients(service)
            for _ in range(40):
                client.ask("/openapi.json")
            await until(lambda: server.open_connections.unread_bytes > 0)
            client.socket.close()  # with unread bytes: a reset
            await until(lambda: any(line.get("client_left") for line in lines))
    (line,) = [line for line in lines if line.get("client_left")]
    assert (line["event"], line["route"], line["status"]) == ("request.served", "/openapi.json", 200)


async def test_beyond_what_all_may_hold_the_one_behind_longest_is_closed(
    tmp_path: Path, model: ModelServer, servers: list[HttpServer], clients: Callable[[Running], Client]
) -> None:
    async with bounded(tmp_path, model, servers, CHATBOT_SERVER_UNSENT_MAX_BYTES="1048576") as (service, server):
        held = []
        with capture_logs() as lines:
            for _ in range(30):
                held.append(clients(service))
                for _ in range(8):
                    held[-1].ask(LARGE)
                await asyncio.sleep(0)
            await until(lambda: server.open_connections.count <= 22)
            assert server.open_connections.unread_bytes <= 1_048_576
        assert len(await held[0].rest()) < 8_000_000, "cut off"
        (line,) = [line for line in lines if line["event"] == "connections.closed"]
        assert line["reason"] == "unread"
        assert (await service.client.get("/livez")).status_code == 200


async def test_at_the_cap_the_longest_idle_is_closed_and_the_busy_are_not(
    tmp_path: Path, model: ModelServer, servers: list[HttpServer], clients: Callable[[Running], Client]
) -> None:
    async with bounded(tmp_path, model, servers, CHATBOT_SERVER_CONNECTIONS_MAX="4") as (service, server):
        session_id = await service.session()  # over a connection of its own, which is idle afterwards
        feed = clients(service)
        feed.ask(f"/api/sessions/{session_id}/stream")
        await until(lambda: service.services.feeds.count == 1)
        idle = [clients(service) for _ in range(10)]
        assert await idle[0].rest() == b""
        assert server.open_connections.count <= 4
        assert service.services.feeds.count == 1
        more = [clients(service) for _ in range(3)]
        for one in more:
            one.ask(f"/api/sessions/{session_id}/stream")
        await until(lambda: service.services.feeds.count == 4)
        head, _, body = (await clients(service).rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        lines = (line.partition(b": ") for line in head.splitlines()[1:])
        headers = httpx.Headers([(name, value) for name, _, value in lines])
        assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-ID"]), "people can name it to the operator"
        assert (headers["Server"], headers["X-Content-Type-Options"]) == ("chatbot", "nosniff")
        assert (headers["Content-Length"], headers["Connection"]) == (str(len(body)), "close")
        assert json.loads(body)["type"] == "/problems/overloaded"
        feed.socket.close()
        await until(lambda: service.services.feeds.count == 3)
        assert (await service.client.get("/livez")).status_code == 200


async def test_without_descriptors_it_pauses_says_so_once_and_goes_on(
    tmp_path: Path, model: ModelServer, servers: list[HttpServer], clients: Callable[[Running], Client]
) -> None:
    async with bounded(tmp_path, model, servers) as (service, server):
        opened = [clients(service) for _ in range(3)]
        await until(lambda: server.open_connections.count >= 3)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [clients(service) for _ in range(2)]
        await until(lambda: server.open_connections.count >= 5)
        more = socket.socket()
        with capture_logs() as lines:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))  # no number is free below it
            try:
                more.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    more.connect((service.client.base_url.host, service.client.base_url.port))
                await until(lambda: any(line["event"] == "accept.failed" for line in lines))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        told = [line["event"] for line in lines if line["event"] in ("accept.failed", "connections.closed")]
        assert told == ["connections.closed", "accept.failed"], "once, however often it fails"
        assert await opened[0].rest() == b"", "the one idle longest has made room"
        assert (await service.client.get("/livez")).status_code == 200
        metrics = (await service.client.get("/metrics")).text
        assert "chatbot_accept_failures_total 1.0" in metrics
        more.close()
        assert waiting


async def test_a_connection_that_the_loop_cannot_take_is_counted_and_the_next_is_served(
    tmp_path: Path, model: ModelServer, servers: list[HttpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bounded(tmp_path, model, servers) as (service, server):
        loop = asyncio.get_running_loop()
        real, failures = loop.connect_accepted_socket, [OSError(errno.ENOMEM, "no memory")]

        async def take(*arguments: Any) -> Any:
            if failures:
                arguments[1].close()
                raise failures.pop()
            return await real(*arguments)

        monkeypatch.setattr(loop, "connect_accepted_socket", take)
        async with httpx.AsyncClient(base_url=service.client.base_url, timeout=10) as other:
            with pytest.raises(httpx.TransportError):
                await other.get("/livez")
            assert (await other.get("/livez")).status_code == 200
            assert "chatbot_accept_failures_total 1.0" in (await other.get("/metrics")).text
        assert not failures
        assert server.open_connections.count >= 1


async def test_large_bodies_that_arrive_slowly_take_no_more_than_their_bytes(
    tmp_path: Path,
    model: ModelServer,
    servers: list[HttpServer],
    clients: Callable[[Running], Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "LINGER_S", 0.05)
    settings = {"CHATBOT_SERVER_REQUEST_BODIES_TOTAL_MAX_BYTES": "300000", "CHATBOT_SERVER_BODY_TIMEOUT_S": "20"}
    async with bounded(tmp_path, model, servers, **settings) as (service, _):
        announced = "POST /api/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{}\r\n\r\n{{"
        slow = [clients(service) for _ in range(3)]
        for one, length in zip(slow, (100_000, 150_000, 60_000), strict=True):
            one.socket.sendall(announced.format(f"Content-Length: {length}").encode())
        budget = service.app[BODIES]
        await until(lambda: budget.reserved_bytes == 250_000)
        for header in ("Content-Length: 90000", "Transfer-Encoding: chunked"):
            refused = clients(service)
            refused.socket.sendall(announced.format(header).replace("{", "").encode() + b"1\r\n{\r\n")
            answer = await refused.rest()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in answer
        await service.session(metadata={"small": "x" * 1_000})
        slow[1].socket.close()
        await until(lambda: budget.reserved_bytes == 100_000)
        assert (await service.client.post("/api/sessions", json={"title": "x" * 100_000})).status_code == 422


async def test_a_stream_has_its_own_time_and_the_connection_afterwards_not(
    tmp_path: Path, model: ModelServer, servers: list[HttpServer]
) -> None:
    settings = {"CHATBOT_SERVER_WRITE_TIMEOUT_S": "7", "CHATBOT_STREAM_WRITE_TIMEOUT_S": "500"}
    async with bounded(tmp_path, model, servers, **settings) as (service, server):
        session_id = await service.session()
        times = []

        def noted() -> bool:
            times.append({one.write_timeout_s for one in server.open_connections._open})
            return times[-1] == {500.0}

        body = {"session_id": session_id, "message": "hi"}
        async with service.client.stream("POST", "/api/chat/stream", json=body) as answer:
            await until(noted)
            await answer.aread()
        await until(lambda: {one.write_timeout_s for one in server.open_connections._open} == {7.0})
        export = await service.client.get(f"/api/sessions/{session_id}/export")
        assert export.status_code == 200
        assert {one.write_timeout_s for one in server.open_connections._open} == {7.0}
