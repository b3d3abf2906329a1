"""What every request passes: its id, its key, its answer to errors, its metrics, its CORS headers.

Who may audit: read the whole log, every session's trail, and what proves them.
"""

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web

from chatbot.api.origin_check import check_host_and_origin
from chatbot.api.problems import Problem, internal_error, problem_of, render, retry_after_s
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.server.response_headers import request_id_of, set_headers
from chatbot.api.services import SERVICES, Services
from chatbot.sessions.domain.commands import Caller
from events.errors import LogUnavailable
from projections.errors import ProjectionError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
CALLER: web.RequestKey[Caller] = web.RequestKey("asker", Caller)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PUBLIC_PATHS = frozenset({"/livez", "/readyz", "/api/health", "/docs", "/redoc", "/openapi.json", "/problems"})
PUBLIC_PREFIXES = ("/docs/", "/redoc/", "/problems/")


@web.middleware
async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: gives the request its id, answers every error as a problem, and counts the answer."""
    services = request.app[SERVICES]
    request_id = request[REQUEST_ID] = request_id_of(request, services)
    started_s = time.perf_counter()
    services.metrics.in_flight.inc()
    services.readiness.open_requests += 1
    status = 499  # the client left: nginx's word for it
    # Not its context manager: a reader that waits for hours would hold that.
    bound = structlog.contextvars.bind_contextvars(request_id=request_id)
    try:
        response = await _handle(request, handler, services)
        status = response.status
        return response
    finally:
        structlog.contextvars.reset_contextvars(**bound)
        services.metrics.in_flight.dec()
        services.readiness.open_requests -= 1
        route, method = _route_template(request), request.method if request.method in METHODS else "OTHER"
        services.metrics.observe_request(route, method, status, time.perf_counter() - started_s)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Just before the headers leave: streams have theirs sent long before a middleware could add any."""
    if not request.content.is_eof():
        # The body is not read to its end: the bytes that follow would have to be thrown away before the next request.
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has made its own headers already
    if "X-Request-ID" not in response.headers:  # the HTTP server's own refusals have theirs
        set_headers(response, request.app[SERVICES], request.get(REQUEST_ID, ""), request.headers.get("Origin"))


async def _handle(request: web.Request, handler: Handler, services: Services) -> web.StreamResponse:
    try:
        check_host_and_origin(request, services.settings.server)
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return _preflight(request)
        request[CALLER] = _authenticate(request, services)
        return await handler(request)
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            services.logger.exception("request.failed", error=type(error).__name__, route=_route_template(request))
            problem = internal_error()
        elif isinstance(error, LogUnavailable | ProjectionError):
            services.logger.warning("request.unavailable", reason=str(error), route=_route_template(request))
        retry_s = retry_after_s(problem, services.health, services.limiter)
        response = render(problem, request, prefix_of(request), retry_s)
        if problem.status == 405:
            response.headers["Allow"] = ", ".join(problem.extra.get("allow", ()))
        if problem.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response


def _authenticate(request: web.Request, services: Services) -> Caller:
    """Who asks, by the key in Authorization: Bearer (or X-API-Key). Raises Problem 401."""
    keys = services.settings.auth.keys
    request_id = request[REQUEST_ID]
    if not keys:
        return Caller(owner=None, request_id=request_id)
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        secret = request.headers.get("X-API-Key", "")
    owner = _owner_of(secret.strip(), keys)
    is_open = request.path in PUBLIC_PATHS or request.path.startswith(PUBLIC_PREFIXES)
    if owner is None and not is_open:
        raise Problem(401, "unauthorized", "Unauthorized", "send a valid key as Authorization: Bearer")
    return Caller(owner=owner, request_id=request_id)


def _owner_of(secret: str, keys: Mapping[str, str]) -> str | None:
    """Every key is compared, each in constant time, so that timing tells nothing about them."""
    given = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
    found: str | None = None
    for name, known in keys.items():
        if hmac.compare_digest(given, hashlib.sha256(known.encode()).digest()):
            found = name
    return found


def _preflight(request: web.Request) -> web.Response:
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*")[:1024],
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=headers)


def _route_template(request: web.Request) -> str:
    """The route's template: a bounded label, unlike the path."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


def is_auditor(request: web.Request) -> bool:
    """Whoever has a key that the settings name; everyone where no keys are configured, as with all else."""
    auth = request.app[SERVICES].settings.auth
    return not auth.keys or request[CALLER].owner in auth.auditors


def require_auditor(request: web.Request) -> None:
    """Raises Problem 403."""
    if not is_auditor(request):
        raise Problem(403, "forbidden", "Forbidden", "only an auditor's key may do this; auth.auditors names them")
