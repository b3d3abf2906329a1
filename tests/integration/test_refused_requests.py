"""What the HTTP server refuses before any of our code runs is answered like every other error."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.model_server import ModelServer
from tests.support.service import Running, serving

ORIGIN = "https://page.example"
COMMON = f"Host: 127.0.0.1\r\nOrigin: {ORIGIN}\r\n"
POST = f"POST /api/sessions HTTP/1.1\r\n{COMMON}Content-Type: application/json\r\n"


@pytest.fixture
async def service(tmp_path: Any, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path, model.url, CORS_ORIGINS=f"https://other.example,{ORIGIN}") as running:
        yield running


async def answer_to(service: Running, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower-case name, and body of the first answer, once the server has closed the connection."""
    host, port = service.client.base_url.host, service.client.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    async with asyncio.timeout(20):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body


REFUSED = [
    pytest.param(f"GET /api/health HTTP/1.1\r\n{COMMON}Cookie: {'x' * 9000}\r\n\r\n", 431, "8192", id="header"),
    pytest.param(f"GET /{'x' * 9000} HTTP/1.1\r\n{COMMON}\r\n", 414, "8190", id="address"),
    pytest.param(
        f"GET / HTTP/1.1\r\n{COMMON}" + "".join(f"X-{n}: 1\r\n" for n in range(140)) + "\r\n", 431, "many", id="headers"
    ),
    pytest.param(f"{POST}Content-Length: x\r\n\r\n{{}}", 400, "Content-Length", id="length"),
    pytest.param(f"{POST}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}", 400, "Content-Length", id="lengths"),
    pytest.param(f"GET / HTTP/1.1\r\nOrigin: {ORIGIN}\r\nX y: 1\r\n\r\n", 400, "header", id="header name"),
    pytest.param(f"GET / HTTP/9.9\r\n{COMMON}\r\n", 400, "request line", id="version"),
    pytest.param(f"{POST}Expect: magic\r\nContent-Length: 0\r\n\r\n", 417, "100-continue", id="expect"),
    pytest.param(f"{POST}Expect: \xff\r\nContent-Length: 0\r\n\r\n", 417, "100-continue", id="expect no text"),
    pytest.param(f"GET /nowhere HTTP/1.1\r\n{COMMON}Expect: \xff\r\n\r\n", 417, "100-continue", id="expect, no route"),
]


@pytest.mark.parametrize(("request_text", "status", "says"), REFUSED)
async def test_a_refusal_of_the_http_server_is_a_problem_that_its_page_may_read(
    service: Running, request_text: str, status: int, says: str
) -> None:
    with capture_logs() as lines:
        answered, headers, body = await answer_to(service, request_text.encode("latin-1"))
    assert answered == status, body
    problem = json.loads(body)
    assert headers["content-type"].startswith("application/problem+json")
    assert (problem["status"], problem["type"].startswith("/problems/")) == (status, True)
    assert says in problem["detail"]
    assert len(headers["x-request-id"]) == 32
    assert headers["access-control-allow-origin"] == ORIGIN
    assert headers["server"] == "chatbot"
    assert "xxxx" not in body.decode(), "what was sent may be a secret"
    assert lines == [], "strangers' bytes are answered, not logged"
    metrics = await service.client.get("/metrics")
    assert f'route="unmatched",status="{status}"' in metrics.text


async def test_a_page_of_another_origin_may_not_read_a_refusal(service: Running) -> None:
    foreign = f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\nCookie: {'x' * 9000}\r\n\r\n"
    status, headers, _ = await answer_to(service, foreign.encode())
    assert status == 431
    assert "access-control-allow-origin" not in headers


async def test_bytes_of_tls_are_told_that_this_is_plain_http(service: Running) -> None:
    status, headers, body = await answer_to(service, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40))
    assert (status, headers["server"]) == (400, "chatbot")
    assert "not HTTPS" in json.loads(body)["detail"]


async def test_a_failure_outside_of_the_middleware_is_an_internal_error_with_an_id_and_a_log_line(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("PRIVATE")

    monkeypatch.setattr("chatbot.api.middleware.request_id_of", fail)
    with capture_logs() as lines:
        answer = await service.client.get("/livez", headers={"X-Request-ID": "find-me", "Origin": ORIGIN})
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
    assert (answer.headers["X-Request-ID"], answer.headers["Server"]) == ("find-me", "chatbot")
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "PRIVATE" not in answer.text
    assert [line["error"] for line in lines if line["event"] == "request.failed"] == ["RuntimeError"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_expectation_that_is_known_goes_on(service: Running, version: str) -> None:
    rest = "Connection: close\r\nExpect: 100-CONTINUE\r\nContent-Length: 2\r\n\r\n{}"
    status, _, body = await answer_to(service, (POST.replace("1.1", version) + rest).encode())
    if version == "1.1":
        assert status == 100
        assert body.startswith(b"HTTP/1.1 201 ")
    else:
        assert status == 201


@pytest.mark.parametrize("path", ["/api/health", "/api/sessions", "/livez", "/nowhere", "/api/sessions/x/messages"])
async def test_no_cache_keeps_an_answer_and_no_browser_guesses_its_type(service: Running, path: str) -> None:
    answer = await service.client.get(path)
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] == "chatbot"


async def test_history_export_and_trail_are_private_and_streams_keep_their_own_rule(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hi")
    for path in ("messages", "export?format=markdown", "export?format=json", "events"):
        answer = await service.client.get(f"/api/sessions/{session_id}/{path}")
        assert answer.headers["Cache-Control"].startswith("private, no-cache"), path
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
    async with service.client.stream("GET", f"/api/sessions/{session_id}/stream") as feed:
        assert feed.headers["Cache-Control"] == "no-cache, no-transform"
        assert feed.headers["X-Content-Type-Options"] == "nosniff"
