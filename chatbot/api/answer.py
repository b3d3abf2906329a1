"""How a handler reads its request and writes its answer."""

from typing import Any

import msgspec
from aiohttp import web

from chatbot.api.bodies import canonical_id
from chatbot.api.pieces import in_pieces
from chatbot.sessions.errors import SessionNotFound

encode = msgspec.json.Encoder().encode


def json_answer(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    encoded = in_pieces(encode(body))
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
