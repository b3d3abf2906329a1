"""The access log: one line for each request, without what people wrote, ids of sessions, and secrets."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.programs.nginx import nginx
from tests.support.service import Running, program, serving

SECRET = "a-secret-of-minas-own"
SETTINGS = {"CHATBOT_LOGGING_ACCESS_LOG": "true", "CHATBOT_API_KEYS": f"mina:{SECRET}", "CHATBOT_AUTH_ADMINS": "mina"}
RESET = struct.pack("ii", 1, 0)  # closing sends a TCP reset: a client that is gone, not one that has said all
FIELDS = {
    *("event", "log_level", "method", "route", "status", "duration_ms", "bytes"),
    *("request_id", "key", "client", "client_left", "cut"),
}


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path, model.url, **SETTINGS, CHATBOT_LOGGING_LEVEL="debug") as running:
        running.client.headers["Authorization"] = f"Bearer {SECRET}"
        yield running


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The access log's lines as they are written."""
    with capture_logs() as logs:

        class Served(list[dict[str, Any]]):
            def __iter__(self) -> Iterator[dict[str, Any]]:
                return iter([dict(one) for one in logs if one["event"] == "request.served"])

        yield Served()


async def line_of(lines: list[dict[str, Any]], request_id: str) -> dict[str, Any]:
    """The one line of a request, once it is written: its answer may come first."""
    async with asyncio.timeout(10):
        while not (found := [one for one in lines if one["request_id"] == request_id]):
            await asyncio.sleep(0.005)
    assert len(found) == 1
    return found[0]


async def test_a_request_has_one_line_with_its_route_and_its_key(service: Running, lines: list[dict[str, Any]]) -> None:
    session_id = await service.session(title="nobody's business")
    answer = await service.client.get(f"/api/sessions/{session_id}/messages?limit=7", headers={"X-Request-ID": "r-1"})
    line = await line_of(lines, "r-1")
    assert set(line) == FIELDS
    assert line["method"] == "GET"
    assert line["route"] == "/api/sessions/{session_id}/messages"
    assert (line["status"], line["key"], line["client"], line["client_left"]) == (200, "mina", "127.0.0.1", False)
    assert line["bytes"] > len(answer.content)
    assert line["duration_ms"] > 0
    text = json.dumps(list(lines))
    for private in (session_id, SECRET, "nobody", "limit"):
        assert private not in text


async def test_a_stream_has_its_line_at_its_end_with_all_its_bytes(
    service: Running, model: ModelServer, lines: list[dict[str, Any]]
) -> None:
    model.script(pieces=("a", "b"), hold_after=1)
    session_id = await service.session()
    body = {"session_id": session_id, "message": "hi"}
    async with service.client.stream("POST", "/api/chat/stream", json=body, headers={"X-Request-ID": "r-2"}) as answer:
        pieces = answer.aiter_raw()
        first = await anext(pieces)
        assert not [one for one in lines if one["request_id"] == "r-2"]
        model.release()
        received = len(first) + sum([len(piece) async for piece in pieces])
    line = await line_of(lines, "r-2")
    assert (line["route"], line["status"], line["client_left"]) == ("/api/chat/stream", 200, False)
    assert line["bytes"] >= received


async def test_a_reader_that_leaves_its_stream_is_noted(service: Running, lines: list[dict[str, Any]]) -> None:
    session_id = await service.session()
    async with service.client.stream(
        "GET", f"/api/sessions/{session_id}/stream", headers={"X-Request-ID": "r-3"}
    ) as answer:
        await anext(aiter(answer.aiter_raw()))
    line = await line_of(lines, "r-3")
    assert (line["status"], line["client_left"], line["cut"]) == (200, True, None)
    assert line["bytes"] > 0


async def test_a_stream_whose_key_is_revoked_was_cut_by_the_service(
    service: Running, lines: list[dict[str, Any]]
) -> None:
    secret = (await service.client.post("/api/keys", json={"name": "app", "scopes": ["chat"]})).json()["secret"]
    headers = {"Authorization": f"Bearer {secret}", "X-Request-ID": "r-5"}
    async with service.client.stream("GET", "/api/sessions/changes", headers=headers) as answer:
        pieces = answer.aiter_raw()
        await anext(pieces)
        assert (await service.client.delete("/api/keys/app")).status_code == 204
        with pytest.raises(httpx.TransportError):
            async for _ in pieces:
                pass
    line = await line_of(lines, "r-5")
    assert (line["status"], line["client_left"], line["cut"]) == (200, False, "key_ended")


async def test_a_client_that_leaves_before_its_answer_is_noted(
    service: Running, model: ModelServer, lines: list[dict[str, Any]]
) -> None:
    model.script(pieces=("a",), hold_after=0)
    session_id = await service.session()
    body = json.dumps({"session_id": session_id, "message": "hi"}).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {SECRET}\r\nX-Request-ID: r-4\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((service.client.base_url.host, service.client.base_url.port)) as one:
        one.sendall(head.encode() + body)
        await model.wait_requests()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    line = await line_of(lines, "r-4")
    assert (line["route"], line["status"], line["client_left"], line["bytes"]) == ("/api/chat", 499, True, 0)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"GET  / /  HTTP/1.1", 400), (b"\x16\x03\x01", 400), (b"GET /" + b"x" * 9000 + b" HTTP/1.1", 414)],
)
async def test_what_the_http_server_refuses_has_a_line_too(
    service: Running, lines: list[dict[str, Any]], request_line: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection(service.client.base_url.host, service.client.base_url.port)
    writer.write(request_line + b"\r\nHost: 127.0.0.1\r\nX-Token: never-logged\r\n\r\n")
    head = (await reader.read()).decode()
    writer.close()
    request_id = next(one for one in head.splitlines() if one.startswith("X-Request-ID")).partition(": ")[2]
    line = await line_of(lines, request_id)
    assert (line["method"], line["route"], line["status"], line["key"]) == ("OTHER", "unmatched", status, None)
    assert (line["client"], line["bytes"]) == ("127.0.0.1", len(head))
    assert "never-logged" not in json.dumps(list(lines))


async def test_a_refused_connection_has_a_line(tmp_path: Path, model: ModelServer, lines: list[dict[str, Any]]) -> None:
    async with serving(tmp_path, model.url, **SETTINGS, CHATBOT_SERVER_CONNECTIONS_MAX="1") as service:
        host, port = service.client.base_url.host, service.client.base_url.port
        session_id = (await service.client.post("/api/sessions", headers={"Authorization": f"Bearer {SECRET}"})).json()[
            "session_id"
        ]
        headers = {"Authorization": f"Bearer {SECRET}"}
        async with service.client.stream("GET", f"/api/sessions/{session_id}/stream", headers=headers):
            reader, writer = await asyncio.open_connection(host, port)
            answer = await reader.read()
            writer.close()
        refused = [one for one in lines if one["status"] == 503]
        assert [(one["method"], one["route"], one["bytes"]) for one in refused] == [(None, "unmatched", len(answer))]


async def test_wrong_keys_and_unknown_paths_have_lines_without_a_key(
    service: Running, lines: list[dict[str, Any]]
) -> None:
    refused = await service.client.get(
        "/api/sessions", headers={"Authorization": "Bearer wrong", "X-Request-ID": "r-5"}
    )
    assert refused.status_code == 401
    line = await line_of(lines, "r-5")
    assert (line["route"], line["status"], line["key"]) == ("/api/sessions", 401, None)
    await service.client.get("/who/knows", headers={"X-Request-ID": "r-6"})
    line = await line_of(lines, "r-6")
    assert (line["route"], line["status"], line["key"]) == ("unmatched", 404, "mina")


async def test_probes_and_assets_are_logged_at_debug_unless_they_fail(
    service: Running, lines: list[dict[str, Any]]
) -> None:
    page = await service.client.get("/", headers={"Accept": "text/html"})
    asset = "/" + re.findall(r'src="(?:\./|/)?(assets/[^"]+)"', page.text)[0]
    for path in ("/livez", "/readyz", "/metrics"):
        await service.client.get(path, headers={"X-Request-ID": path[1:]})
        assert (await line_of(lines, path[1:]))["log_level"] == "debug"
    await service.client.get(asset, headers={"X-Request-ID": "asset"})
    assert (await line_of(lines, "asset"))["log_level"] == "debug"
    await service.client.get("/metrics", headers={"Authorization": "", "X-Request-ID": "r-7"})
    assert (await line_of(lines, "r-7"))["log_level"] == "info"


@pytest.mark.real_part
@requires_program("nginx")
async def test_behind_nginx_the_client_is_who_called_nginx(tmp_path: Path, model: ModelServer) -> None:
    trusted = {"CHATBOT_SERVER_TRUSTED_PROXIES": "127.0.0.1"}
    appended = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    folders = [tmp_path / one for one in ("trusting", "wary")]
    for folder in folders:
        folder.mkdir()
    async with (
        program(folders[0], model.url, **SETTINGS | trusted) as trusting,
        program(folders[1], model.url, **SETTINGS) as wary,
    ):
        for service, client in ((trusting, "127.0.0.9"), (wary, "127.0.0.1")):
            folder = tmp_path / f"nginx-{client}"
            async with nginx(folder, service.url, appended) as proxy:
                url = httpx.URL(proxy.url)
                with socket.create_connection((url.host, url.port), source_address=("127.0.0.9", 0)) as one:
                    one.sendall(
                        b"GET /api/sessions HTTP/1.0\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 203.0.113.1\r\n"
                        b"X-Request-ID: proxied\r\n\r\n"
                    )
                    assert b" 401 " in await asyncio.to_thread(one.recv, 65536)
            await service.stop()
            (line,) = [one for one in service.log("request.served") if one["request_id"] == "proxied"]
            assert line["client"] == client
