"""How a handler reads its request and writes its answer.

A body that is sent in pieces: its connection never holds more than one of them outside of the body itself.
"""

from typing import Any

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from chatbot.api.request_bodies import canonical_id
from chatbot.api.server.connection_limits import BoundedProtocol
from chatbot.sessions.domain.rejections import SessionNotFound

encode = msgspec.json.Encoder().encode


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    encoded = piecewise_body(encode(body))
    return web.Response(status=status, body=encoded, content_type="application/json", headers=headers)


def etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


def session_id_of(request: web.Request) -> str:
    """The session in the path. Raises SessionNotFound for what cannot be one."""
    given = request.match_info["session_id"]
    session_id = canonical_id(given)
    if session_id is None:
        raise SessionNotFound(given[:64])
    return session_id


PIECE_BYTES = 65_536  # as much as aiohttp writes before it waits


class PiecewiseBody(Payload):
    """`body`, written piece by piece as its client takes it. One that is `shared` among answers costs each nothing."""

    def __init__(self, body: bytes, *, shared: bool = False) -> None:
        super().__init__(body)
        self._size = len(body)
        self._body = body
        self._shared = shared

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Raises ConnectionError when the client has left or was cut off."""
        protocol = getattr(writer, "protocol", None)
        with memoryview(self._body) as view:
            for start in range(0, len(view), PIECE_BYTES):
                if isinstance(protocol, BoundedProtocol) and not self._shared:
                    protocol.count_held_bytes(len(view))
                await writer.write(bytes(view[start : start + PIECE_BYTES]))
                await writer.drain()


def piecewise_body(body: bytes, *, shared: bool = False) -> bytes | PiecewiseBody:
    """What to give an answer for its body: the body itself where it is small."""
    return body if len(body) <= PIECE_BYTES else PiecewiseBody(body, shared=shared)
