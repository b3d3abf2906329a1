"""API keys: add, list, rotate and revoke them while the service runs."""

from aiohttp import web
from msgspec import UNSET

from chatbot.api.access.authorization import CALLER
from chatbot.api.access.key_bodies import AddKeyBody, KeyList, RotateKeyBody
from chatbot.api.problems import Problem, RequestFault
from chatbot.api.request_queries import check_query
from chatbot.api.requests import read_body
from chatbot.api.responses import json_response
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.audit.point_in_time import parse_time_bound
from chatbot.keys.key_errors import InvalidKey
from chatbot.keys.key_state import UNCHANGED, AddKey, KeyCommand, KeyState, RevokeKey, RotateKey
from chatbot.keys.key_views import view_keys, view_new_key
from events.record import Metadata

NO_STORE = {"Cache-Control": "no-store"}  # the answer has a secret
LOGGED = {AddKey: "key.added", RotateKey: "key.rotated", RevokeKey: "key.revoked"}
routes = web.RouteTableDef()


@routes.get("/api/keys")
async def list_keys(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    check_query(request, frozenset())
    return json_response(KeyList(view_keys(services.keys, services.clock())))


@routes.post("/api/keys")
async def add(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    if services.keys.is_open:
        raise Problem(
            403,
            "first-key",
            "No key yet",
            "this service has no keys, so anybody could make the first one and lock all others out: make it with"
            " `chatbot key add` on the server, or set CHATBOT_API_KEYS and auth.admins",
        )
    body = await read_body(request, AddKeyBody, services.settings.server.body_timeout_s)
    key, secret = await _change(request, AddKey(body.name, body.scopes, _expiry(body.expires_at)))
    headers = {"Location": f"{prefix_of(request, services.settings.server)}/api/keys", **NO_STORE}
    view = view_new_key(key, secret, services.keys, services.clock())
    return json_response(view, status=201, headers=headers)


@routes.post("/api/keys/{key_name}/rotate")
async def rotate(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, RotateKeyBody, services.settings.server.body_timeout_s, optional=True)
    command = RotateKey(
        request.match_info["key_name"],
        body.overlap_seconds,
        () if body.scopes is UNSET else body.scopes,
        UNCHANGED if body.expires_at is UNSET else _expiry(body.expires_at),
    )
    key, secret = await _change(request, command)
    return json_response(view_new_key(key, secret, services.keys, services.clock()), headers=NO_STORE)


@routes.delete("/api/keys/{key_name}")
async def revoke(request: web.Request) -> web.Response:
    await _change(request, RevokeKey(request.match_info["key_name"]))
    return web.Response(status=204)


async def _change(request: web.Request, command: KeyCommand) -> tuple[KeyState, str]:
    """Raises KeyRejection, RequestFault, LogUnavailable."""
    services, caller = request.app[SERVICES], request[CALLER]
    try:
        key, secret = await services.keys.change(command, Metadata(caller.owner, caller.request_id))
    except InvalidKey as error:
        raise RequestFault(str(error), f"$.{error.field}") from error
    prefix = key.secrets[-1].prefix if key.secrets else None
    services.logger.info(LOGGED[type(command)], name=key.name, prefix=prefix, by=caller.owner)
    return key, secret


def _expiry(text: str | None) -> int | None:
    """Unix microseconds. Raises RequestFault."""
    if text is None:
        return None
    try:
        return parse_time_bound(text, is_end=True)
    except ValueError as error:
        raise RequestFault(str(error), "$.expires_at") from error
