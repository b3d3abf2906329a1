"""The middleware that every request passes: request id, authentication, errors as problems, metrics, response headers.

It also checks `Host` and `Origin`, which protects the browser of a user. A browser sends requests to this service for
any page that it shows. CORS keeps the answers from pages of other origins, but their writes would take effect; and a
page whose own host name resolves to 127.0.0.1 (DNS rebinding) counts as a page of this service. Programs other than
browsers send no `Origin` and an ordinary `Host`, and are not affected.
"""

import re
import time
from contextvars import ContextVar
from functools import lru_cache

from aiohttp import web
from structlog.contextvars import STRUCTLOG_KEY_PREFIX

from chatbot.api.access.access_log import CLIENT_LEFT_STATUS, METHODS, OTHER_METHOD, SERVED
from chatbot.api.access.authorization import CALLER, OTHER_ROUTES, PRINCIPAL, ROUTE_SCOPES, require_route_scope
from chatbot.api.access.failed_attempts import FAILED_ATTEMPTS
from chatbot.api.access.ticket_scope import ticket_principal
from chatbot.api.access.view_records import VIEWS
from chatbot.api.problems import Problem, internal_error, problem_of, render, retry_after_s
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES, Services
from chatbot.api.streaming.response_stream import ask_to_reconnect
from chatbot.api.v1.error_form import is_v1, render_error
from chatbot.config.host_addresses import is_loopback
from chatbot.config.sections.server_settings import ServerSettings
from chatbot.keys.principal import EVERYONE, UNKNOWN, Principal
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.rejections import Draining
from events.errors import LogUnavailable
from projections.errors import ProjectionError

PUBLIC_PATHS = frozenset({"/", "/livez", "/readyz", "/api/health", "/docs", "/redoc", "/openapi.json", "/problems"})
PUBLIC_PREFIXES = ("/assets/", "/docs/", "/redoc/", "/problems/", "/witness/")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # they change nothing, and CORS hides their answers
PROBES = frozenset({"/livez", "/readyz"})  # load balancers call them by any name; the answers tell only a state
SHOWN_MAX_CHARS = 100  # of a header quoted in a refusal
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
EXPOSED = (
    "Content-Location, ETag, Location, Preference-Applied, Retry-After, X-Ignored-Fields, X-Request-ID, X-Session-Id,"
    " X-Should-Retry"
)
SERVER = "chatbot"  # without this header aiohttp sends its version and Python's
PRIVATE = "private, no-cache"  # answers contain conversations: no shared cache may keep one
COMMON_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": PRIVATE}  # where an answer has no others

# As structlog.contextvars.bind_contextvars(request_id=…) makes it, at a tenth of the cost: log lines have the field.
LOGGED_REQUEST_ID: ContextVar[str] = ContextVar(f"{STRUCTLOG_KEY_PREFIX}request_id")

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(:[0-9]{1,5})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


async def serve_request(request: web.Request, services: Services) -> web.StreamResponse:
    """Call the route's handler: assigns the request id, answers every error as a problem, and counts the answer."""
    served, readiness = request[SERVED], services.readiness
    request_id = served.request_id = request_id_of(request, services)
    served.route = _route_template(request)
    readiness.open_requests += 1
    status = CLIENT_LEFT_STATUS  # until there is an answer
    bound = LOGGED_REQUEST_ID.set(request_id)
    try:
        try:
            check_host_and_origin(request, services.settings.server)
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                response: web.StreamResponse = _preflight(request)
            else:
                principal = request[PRINCIPAL] = _authenticate(request, services)
                request[CALLER] = Caller(principal.name, request_id, any_owner=principal is EVERYONE)
                refusal = await _record_view(request) if services.settings.auth.record_reads else None
                response = refusal or await request.match_info.handler(request)
        except Exception as error:  # noqa: BLE001  logged if it is unexpected
            response = _problem_response(error, request, services)
        status = response.status
        return response
    finally:
        LOGGED_REQUEST_ID.reset(bound)
        readiness.open_requests -= 1
        method = request.method if request.method in METHODS else OTHER_METHOD
        services.metrics.observe_request(served.route, method, status, time.perf_counter() - served.started_s)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler, called before headers are sent: a stream's are sent long before its handler returns."""
    served = request[SERVED]
    served.status = response.status
    if not request.content.is_eof():
        # The rest of the body would have to be read and discarded before the next request of this connection.
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has made its own headers already
    if "X-Request-ID" not in response.headers:  # the HTTP server sets them on its own refusals
        set_headers(response, request.app[SERVICES], served.request_id, request.headers.get("Origin"))


async def _record_view(request: web.Request) -> web.Response | None:
    """Record what is read; the answer if that fails and an EventSource is to come again. Raises as ViewRecorder."""
    try:
        await request.app[VIEWS].record(request)
    except Exception as error:  # noqa: BLE001  raised again but for an EventSource
        return ask_to_reconnect(request, error)
    return None


def _problem_response(error: Exception, request: web.Request, services: Services) -> web.Response:
    problem = problem_of(error)
    if problem is None:
        services.logger.exception("request.failed", error=type(error).__name__, route=_route_template(request))
        problem = internal_error()
    elif isinstance(error, LogUnavailable | ProjectionError):
        services.logger.warning("request.unavailable", reason=str(error), route=_route_template(request))
    caller = request.get(CALLER)
    retry_s = retry_after_s(problem, services.health, services.limiter, caller.owner if caller else None)
    if is_v1(request.path):
        response = render_error(problem, retry_s)
    else:
        response = render(problem, request, prefix_of(request, services.settings.server), retry_s)
    if problem.status == 405:
        response.headers["Allow"] = ", ".join(problem.extra.get("allow", ()))
    if problem.status == 416:
        response.headers["Content-Range"] = f"bytes */{problem.extra['size']}"
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _authenticate(request: web.Request, services: Services) -> Principal:
    """The principal of the key in Authorization: Bearer or X-API-Key, else of a ticket. Raises Problem 401, 403."""
    if services.keys.is_open:
        return EVERYONE
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        secret = request.headers.get("X-API-Key", "")
    secret = secret.strip()
    attempts = request.app[FAILED_ATTEMPTS]
    refusal = Problem(401, "unauthorized", "Unauthorized", "send a valid key as Authorization: Bearer")
    try:
        principal = services.keys.find(secret) if secret else ticket_principal(request, services.keys, services.clock())
    except Problem as problem:
        # An expired ticket, or one of another session, is no failure: this service has signed it.
        raise attempts.refuse(request, "ticket", problem) if problem.kind == refusal.kind else problem from None
    if principal is None and secret:
        refusal = attempts.refuse(request, "key", refusal)
    if principal is not None:
        request[SERVED].key = principal.name  # also of a request that is refused below
    if request.path in PUBLIC_PATHS or request.path.startswith(PUBLIC_PREFIXES):
        return principal or UNKNOWN
    if principal is None:
        raise refusal
    resource = request.match_info.route.resource
    if resource is not None:  # else the answer is 404 or 405
        method = "GET" if request.method == "HEAD" else request.method
        require_route_scope(principal, ROUTE_SCOPES.get((method, resource.canonical), OTHER_ROUTES))
    return principal


def _preflight(request: web.Request) -> web.Response:
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", "*")[:1024],
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=headers)


def _route_template(request: web.Request) -> str:
    """The route's path template: unlike the path, a label with a bounded number of values."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"


def require_accepting(request: web.Request) -> None:
    """Raises Draining once the service is shutting down: no new sessions and replies."""
    if request.app[SERVICES].supervisor.draining:
        raise Draining("the service is shutting down")


def check_host_and_origin(request: web.Request, server: ServerSettings) -> None:
    """Raises Problem 403 for a Host that is not a name of this service, and for a write by a page of another origin."""
    _check_host(request, server)
    if request.method not in SAFE_METHODS:
        _check_origin(request, server)


def _check_host(request: web.Request, server: ServerSettings) -> None:
    """If other machines can connect, Host is checked only if names are configured: no others are known here. With API
    keys DNS rebinding gains nothing there, since no browser adds a key by itself.
    """
    host = request.headers.get("Host")
    if host is None or _is_own_name(host, server.hosts):
        return  # every browser sends a Host
    if "*" in server.hosts or request.path in PROBES or not (server.hosts or is_loopback(server.host)):
        return
    if _name_in(host).strip("[]") != _own_address(request):
        raise Problem(
            403,
            "host-not-allowed",
            "Host not allowed",
            f"the request's Host is {_quoted(host)}, which is not a name of this service; server.hosts"
            " (CHATBOT_SERVER_HOSTS) lists the names under which it may be called",
        )


@lru_cache(maxsize=256)  # of Host headers, which a connection repeats, and of settings, which never change
def _is_own_name(host: str, hosts: tuple[str, ...]) -> bool:
    """Whether a Host header has a name of this machine, or one of `hosts`."""
    name = _name_in(host)
    return is_loopback(name) or any(name == known.lower() for known in hosts)


def _name_in(host: str) -> str:
    """The name or address in a Host header, without the port; empty if the header is not valid."""
    found = _HOST.fullmatch(host)
    return found["name"].lower().removesuffix(".") if found else ""


def _own_address(request: web.Request) -> str | None:
    """The local address of the connection. Probes in a cluster use it as Host; it involves no DNS."""
    address = request.get_extra_info("sockname")
    return str(address[0]).removeprefix("::ffff:") if isinstance(address, tuple) else None


def _check_origin(request: web.Request, server: ServerSettings) -> None:
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is None and site is None:  # no browser
        return
    if "*" in server.cors_origins or origin in server.cors_origins:
        return
    if site == "same-origin":  # set by the browser, not by the page; correct also behind a proxy that changes Host
        return
    if origin is None:
        is_foreign = site in ("cross-site", "same-site")
    else:
        is_foreign = site == "cross-site" or not _is_same_host(origin, request.headers.get("Host", ""))
    if is_foreign:
        seen = f"Sec-Fetch-Site is {site}" if origin is None else f"Origin is {_quoted(origin)}"
        raise Problem(
            403,
            "origin-not-allowed",
            "Origin not allowed",
            f"the request's {seen}: pages of other origins may not change anything here; server.cors_origins"
            " (CORS_ORIGINS) lists the origins that may, and a proxy in front has to pass the Host header on",
        )


def _is_same_host(origin: str, host: str) -> bool:
    """Whether a page of `origin` was loaded from `host`. Ignores the scheme: a proxy in front may terminate TLS."""
    scheme, _, authority = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme, "")
    return bool(authority) and authority.removesuffix(port) == host.lower().removesuffix(port)


def _quoted(value: str) -> str:
    """A header's value as shown in a refusal, shortened."""
    return repr(value if len(value) <= SHOWN_MAX_CHARS else value[:SHOWN_MAX_CHARS] + "…")


def request_id_of(request: web.BaseRequest, services: Services) -> str:
    """The client's X-Request-ID if it is valid, else a new id."""
    given = request.headers.get("X-Request-ID")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else services.new_token()


def set_headers(response: web.StreamResponse, services: Services, request_id: str, origin: str | None) -> None:
    """Set the headers of every answer. `origin` is the request's Origin header, None if it had none."""
    headers = response.headers
    headers["Server"] = SERVER
    headers["X-Request-ID"] = request_id
    for name, value in COMMON_HEADERS.items():
        headers.setdefault(name, value)
    if services.readiness.retiring:
        response.force_close()
        headers["Connection"] = "close"  # aiohttp has made its own headers already
    if origin is not None and services.settings.server.cors_origins:
        _allow_origin(response, services.settings.server.cors_origins, origin)


def _allow_origin(response: web.StreamResponse, allowed: tuple[str, ...], origin: str) -> None:
    if "*" in allowed:
        response.headers["Access-Control-Allow-Origin"] = "*"
    else:
        varies = response.headers.get("Vary")
        response.headers["Vary"] = f"{varies}, Origin" if varies else "Origin"
        if origin not in allowed:
            return
        response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = EXPOSED
