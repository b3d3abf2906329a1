"""A body whose reading was paused is read to its end, however its bytes arrive."""

import asyncio

from tests.integration.http_server.test_half_closed_connections import post
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

CHUNKS_AT_ONCE = 2**18 // 16 + 1  # aiohttp stops to read a body of which more chunks are unread


async def test_a_body_of_many_small_chunks_is_read_to_its_end(service: Running, model: ModelServer) -> None:
    model.script(pieces=("Hello ", "world"), delay_s=0.2)
    url, chat = service.client.base_url, {"session_id": await service.session(), "message": "hi"}
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = b"POST /api/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    writer.write(post("/api/chat", chat) + head + b"1\r\n \r\n" * CHUNKS_AT_ONCE)
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
        await asyncio.sleep(0.1)  # the second body is being read
        writer.write(b"1\r\n{\r\n" + b"1\r\n}\r\n" + b"0\r\n\r\n")
        answers = await reader.readuntil(b"HTTP/1.1 201 Created\r\n")
    writer.close()
    assert b"Hello world" in answers
