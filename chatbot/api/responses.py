"""Responses: JSON, static files, and large bodies sent in pieces, so that no second copy of one is in memory."""

import gzip
import hashlib
from typing import Any

import msgspec
from aiohttp import ETag, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from msgspec import Struct

from chatbot.api.response_bodies import state_view
from chatbot.api.server.connection_limits import BoundedProtocol
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.sessions.domain.state import State

REVALIDATE = "no-cache"  # a browser may keep it, but asks each time whether it has changed

encode = msgspec.json.Encoder().encode


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    encoded = piecewise_body(encode(body))
    return web.Response(status=status, body=encoded, content_type="application/json", headers=headers)


def etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


PIECE_BYTES = 65_536  # what aiohttp writes before it waits


class PiecewiseBody(Payload):
    """`body`, written in pieces as the client reads it. If `shared` by many answers, it does not count as unread."""

    def __init__(self, body: bytes, *, shared: bool = False) -> None:
        super().__init__(body)
        self._size = len(body)
        self._body = body
        self._shared = shared

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Raises ConnectionError if the client left or was disconnected."""
        protocol = getattr(writer, "protocol", None)
        with memoryview(self._body) as view:
            for start in range(0, len(view), PIECE_BYTES):
                if isinstance(protocol, BoundedProtocol) and not self._shared:
                    protocol.count_held_bytes(len(view))
                await writer.write(bytes(view[start : start + PIECE_BYTES]))
                await writer.drain()


def piecewise_body(body: bytes, *, shared: bool = False) -> bytes | PiecewiseBody:
    """The body for a response: `body` itself if it is small."""
    return body if len(body) <= PIECE_BYTES else PiecewiseBody(body, shared=shared)


def created_response(request: web.Request, state: State) -> web.Response:
    """201 with the new session, whose deadline the expiry timer is told."""
    session, services = state.session, request.app[SERVICES]
    services.expiry.notify(session.expires_at_us)
    prefix = prefix_of(request, services.settings.server)
    headers = {"Location": f"{prefix}/api/sessions/{session.session_id}", **etag(session.version)}
    return json_response(state_view(state), status=201, headers=headers)


class StaticFile(Struct, frozen=True):
    """A file as it is served, plain and compressed, with its fixed headers."""

    body: bytes
    compressed: bytes
    etag: str
    headers: dict[str, str]


def file_response(request: web.Request, found: StaticFile) -> web.Response:
    headers = {"ETag": f'W/"{found.etag}"', **found.headers}  # weak: of both encodings
    known = request.if_none_match or ()
    if ETag("*") in known or found.etag in [tag.value for tag in known]:
        return web.Response(status=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        compressed = piecewise_body(found.compressed, shared=True)
        return web.Response(body=compressed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=piecewise_body(found.body, shared=True), headers=headers)


def make_file(body: bytes, content_type: str, cache_control: str) -> StaticFile:
    charset = "; charset=utf-8" if content_type.startswith("text/") else ""
    headers = {
        "Content-Type": content_type + charset,
        "Cache-Control": cache_control,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    return StaticFile(body, gzip.compress(body, 6, mtime=0), hashlib.sha256(body).hexdigest()[:32], headers)
