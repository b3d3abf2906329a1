"""Damaged HTTP requests at a real socket: each is answered or its connection closed, and none is a fault of ours."""

import asyncio
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from structlog.testing import capture_logs

from tests.fuzz.damage import SIZES, cut, damaged
from tests.support.model.model_server import ModelServer
from tests.support.nightly import scaled
from tests.support.service import Running, serving

SECRET = "a-secret-of-minas-own"
HEAD = f"Host: 127.0.0.1\r\nX-API-Key: {SECRET}\r\nX-Forwarded-For: 203.0.113.9, 127.0.0.1\r\n".encode()
ID = b"00000000-0000-4000-8000-000000000000"


def post(path: bytes, body: bytes, extra: bytes = b"") -> bytes:
    length = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return b"POST %b HTTP/1.1\r\n" % path + HEAD + length + extra + b"\r\n" + body


REQUESTS = [
    b"GET /api/sessions?limit=2&order=created&metadata.a=b HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"GET /api/sessions/%b/stream?after=0:0 HTTP/1.1\r\nLast-Event-ID: 3:4\r\n" % ID + HEAD + b"\r\n",
    b"GET /api/media/%b?session_id=%b HTTP/1.1\r\nRange: bytes=0-1\r\n" % (b"a" * 64, ID) + HEAD + b"\r\n",
    b"GET /api/sessions/%b/events?after=0&limit=1&type=session_created HTTP/1.1\r\n" % ID + HEAD + b"\r\n",
    b"GET /api/sessions/%b/export?as_of=2026-01-31&format=markdown HTTP/1.0\r\n" % ID + HEAD + b"\r\n",
    b'DELETE /api/sessions/%b HTTP/1.1\r\nIf-Match: "1"\r\n' % ID + HEAD + b"\r\n",
    post(b"/api/sessions", b'{"title": "T", "metadata": {"a": "b"}}', b"Idempotency-Key: k\r\n"),
    post(b"/api/chat", b'{"session_id": "%b", "message": "hi"}' % ID, b"Prefer: respond-async\r\n"),
    post(b"/v1/chat/completions", b'{"model": "fake-model", "messages": []}', b"X-Session-Id: a\r\n"),
    post(b"/api/tickets", b'{"session_id": "%b"}' % ID, b"Expect: 100-continue\r\n"),
    post(b"/witness/add-checkpoint", b"old 0\n\nlog.example\n1\nAAAA\n\n\xe2\x80\x94 log.example AAAA\n"),
    b"POST /api/media HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HEAD + b"\r\n4\r\n\x89PNG\r\n0\r\n\r\n",
]
ANSWER_S = 5.0


async def send(service: Running, data: bytes, sizes: list[int]) -> bytes:
    """The answer as far as it comes before the client closes."""
    reader, writer = await asyncio.open_connection(service.client.base_url.host, service.client.base_url.port)
    try:
        with suppress(ConnectionError):
            for piece in cut(data, sizes[:1] and [max(sizes) * 20]):
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(ANSWER_S):
                return await reader.read(4096)
        return b""
    finally:
        writer.close()


async def test_no_request_is_a_fault_of_the_service(tmp_path: Path, model: ModelServer) -> None:
    faults: list[object] = []

    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=f"mina:{SECRET}") as service:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        with capture_logs() as lines:

            @settings(max_examples=scaled(60), suppress_health_check=[HealthCheck.too_slow], deadline=None)
            @given(damaged(REQUESTS), SIZES)
            def ask(data: bytes, sizes: list[int]) -> None:
                answer = asyncio.run_coroutine_threadsafe(send(service, data, sizes), loop).result(ANSWER_S * 2)
                assert answer == b"" or answer.startswith(b"HTTP/"), answer[:80]
                assert b" 500 " not in answer.partition(b"\r\n")[0], answer

            await asyncio.to_thread(ask)
            failed = [one for one in lines if one["log_level"] in ("error", "critical")]
            assert failed == []
        assert faults == []
        assert (await service.client.get("/livez")).status_code == 200
