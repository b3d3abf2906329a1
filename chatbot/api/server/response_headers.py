"""The headers of every answer: who may read it, who may keep it, and the request's id."""

import re

from aiohttp import web

from chatbot.api.services import Services

EXPOSED = "ETag, Location, Preference-Applied, Retry-After, X-Request-ID"
SERVER = "chatbot"  # without this header aiohttp tells its version, and Python's
PRIVATE = "private, no-cache"  # answers hold people's conversations: no shared cache may keep one

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def request_id_of(request: web.BaseRequest, services: Services) -> str:
    """The id that the client gave its request where it is a proper one, else a new one."""
    given = request.headers.get("X-Request-ID", "")
    return given if _REQUEST_ID.fullmatch(given) else services.new_token()


def set_headers(response: web.StreamResponse, services: Services, request_id: str, origin: str | None) -> None:
    """What every answer carries, whoever made it. `origin` is the request's Origin header; None: it had none."""
    headers = response.headers
    headers["X-Request-ID"] = request_id
    headers["Server"] = SERVER
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", PRIVATE)
    if services.readiness.retiring:
        response.force_close()
        headers["Connection"] = "close"  # aiohttp has made its own headers already
    _allow_origin(response, services.settings.server.cors_origins, origin)


def _allow_origin(response: web.StreamResponse, allowed: tuple[str, ...], origin: str | None) -> None:
    if origin is None or not allowed:
        return
    if "*" in allowed:
        response.headers["Access-Control-Allow-Origin"] = "*"
    else:
        varies = response.headers.get("Vary")
        response.headers["Vary"] = f"{varies}, Origin" if varies else "Origin"
        if origin not in allowed:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = EXPOSED
