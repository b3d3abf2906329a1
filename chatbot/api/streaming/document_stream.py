"""A long document as a streamed answer: made and sent piece by piece, so that only one piece is in memory."""

import math
from collections.abc import AsyncIterator, Iterable, Mapping

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.streaming.response_stream import STREAMS, ResponseStream, stream_response
from events.errors import LogError


async def send_document(
    request: web.Request, pieces: AsyncIterator[bytes], headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer with `pieces` as they are made. The first is made before the headers are sent, so its errors are answered
    as problems. A later error aborts the connection, so that the client does not take a part for the whole.

    Raises Overloaded if too many streams are open, and what the first piece raises.
    """
    streams = request.app[STREAMS]
    if request.method == "HEAD":
        return web.StreamResponse(headers=headers)

    begun: list[bytes] = []

    async def write(stream: ResponseStream) -> None:
        try:
            while begun:
                await stream.send(begun.pop())
            async for piece in pieces:
                await stream.send(piece)
        except LogError as error:
            streams.logger.warning("document.cut", reason=str(error))
            stream.break_off(error)

    with streams.limit.acquire(request[CALLER].owner):
        if first := await anext(pieces, b""):
            begun.append(first)
        del first
        return await stream_response(request, write, headers=headers, ping_s=math.inf)


async def json_document(template: bytes, member: str, pages: AsyncIterator[Iterable[bytes]]) -> AsyncIterator[bytes]:
    """`template`, a JSON object whose last list named `member` is empty, with the elements of `pages` in that list."""
    lead, found, end = template.rpartition(b'"%b":[]' % member.encode())
    if not found:
        raise ValueError(f"the document has no empty list {member}")
    lead += found[:-1]
    async for page in pages:
        piece = b",".join(page)
        if piece:
            yield lead + piece
            lead = b","
    yield b"]" + end if lead == b"," else lead + b"]" + end
