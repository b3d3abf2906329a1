"""What the HTTP server refuses before any of our code runs is answered like every other error."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from chatbot.api.server import http_server
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

ORIGIN = "https://page.example"
COMMON = f"Host: 127.0.0.1\r\nOrigin: {ORIGIN}\r\n"
POST = f"POST /api/sessions HTTP/1.1\r\n{COMMON}Content-Type: application/json\r\n"


@pytest.fixture
async def service(tmp_path: Any, model: ModelServer) -> AsyncIterator[Running]:
    settings = {"CORS_ORIGINS": f"https://other.example,{ORIGIN}", "CHATBOT_SERVER_HEADERS_MAX_BYTES": "8192"}
    async with serving(tmp_path, model.url, **settings) as running:
        yield running


async def answer_to(service: Running, request: bytes, *, ends: bool = True) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower-case name, and body of the first answer, once the server has closed the connection;
    where it leaves it open (`ends` False) no body.
    """
    host, port = service.client.base_url.host, service.client.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    async with asyncio.timeout(20):
        found = await (reader.read() if ends else reader.readuntil(b"\r\n\r\n"))
        head, _, body = found.partition(b"\r\n\r\n")
    writer.close()
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body


REFUSED = [
    pytest.param(f"GET /api/health HTTP/1.1\r\n{COMMON}Cookie: {'x' * 9000}\r\n\r\n", 431, "8192", id="header"),
    pytest.param(
        f"GET / HTTP/1.1\r\n{COMMON}" + "".join(f"X-{n}: {'y' * 1000}\r\n" for n in range(9)) + "\r\n",
        431,
        "8192 bytes together",
        id="headers together",
    ),
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


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "identity, deflate", "\xff"])
async def test_a_compressed_body_is_refused_and_never_unpacked(service: Running, coding: str) -> None:
    body = zlib.compress(b"{}" + b" " * 1_000_000)
    head = f"{POST}Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
    status, headers, answer = await answer_to(service, head.encode("latin-1") + body)
    assert (status, headers["accept-encoding"], headers["connection"]) == (415, "identity", "close")
    assert "without Content-Encoding" in json.loads(answer)["detail"]
    assert not (await service.client.get("/api/sessions")).json()["sessions"]


async def test_what_is_announced_as_not_compressed_is_taken(service: Running) -> None:
    head = f"{POST}Content-Encoding: Identity\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
    assert (await answer_to(service, head.encode()))[0] == 201


@pytest.mark.parametrize(
    ("line", "announced", "wanted"),
    [
        ("POST /api/sessions", 2_000_000, 413),
        ("POST /api/chat", 10_000, 415),
        ("POST /nowhere", 10_000, 404),
        ("PUT /api/sessions", 10_000, 405),
        ("GET /api/sessions", 10_000, 200),
    ],
)
async def test_a_body_that_nobody_reads_ends_its_connection(
    service: Running, monkeypatch: pytest.MonkeyPatch, line: str, announced: int, wanted: int
) -> None:
    monkeypatch.setattr(http_server, "LINGER_S", 0.05)
    request = f"{line} HTTP/1.1\r\n{COMMON}Content-Type: text/plain\r\nContent-Length: {announced}\r\n\r\nbeginning"
    if wanted == 415:  # its type is looked at once it is there
        request = request.replace(f"Length: {announced}", "Length: 9")
    status, headers, _ = await answer_to(service, request.encode(), ends=wanted != 415)
    assert status == wanted
    assert ("close" in headers.get("connection", "")) is (wanted != 415)


async def test_a_refusal_quotes_no_more_than_a_little_of_what_was_sent(service: Running) -> None:
    much = "x" * 900_000
    session_id = await service.session()
    bodies: list[dict[str, Any]] = [
        {much: 1},
        {"metadata": {much: 1}},
        {"metadata": {"a": {much: "\0"}}},
        {"title": much},
    ]
    answers = [await service.client.post("/api/sessions", json=body) for body in bodies]
    chat = {"session_id": session_id, "message": "hi"}
    for odd in ({"on_busy": much}, {"parent_id": much}, {"seed": much}, {"session_id": much}, {"stop": [much]}):
        answers.append(await service.client.post("/api/chat", json={**chat, **odd}))
    answers.append(await service.client.patch(f"/api/sessions/{session_id}", json={"title": 1, much: 2}))
    for answer in answers:
        assert answer.status_code in (400, 422), answer.text[:300]
        assert len(answer.content) < 4_000, answer.text[:300]
    assert answers[0].json()["errors"][0]["path"].startswith("$.xxx")


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


@pytest.mark.parametrize("limit", [8190, 32768])
async def test_headers_up_to_the_limit_are_taken_however_many_they_are(
    tmp_path: Any, model: ModelServer, limit: int
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SERVER_HEADERS_MAX_BYTES=str(limit)) as service:
        own = len(f"{COMMON}Connection: close\r\nX-A: \r\nX-B: \r\n")
        for extra, status in ((0, 200), (1, 431), (limit, 431)):
            room = limit - own + extra
            for values in (("", "x" * room), ("x" * (room // 2), "x" * (room - room // 2))):
                a, b = values
                request = f"GET /livez HTTP/1.1\r\n{COMMON}Connection: close\r\nX-A: {a}\r\nX-B: {b}\r\n\r\n"
                answered, _, body = await answer_to(service, request.encode())
                assert answered == status, (extra, body)
