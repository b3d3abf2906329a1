"""The HTTP server: aiohttp's, with problem documents for the requests that it refuses before any middleware.

By itself aiohttp answers invalid HTTP, headers that are too large and an unknown `Expect` in plain text, and reveals
its version.
"""

import asyncio
import time
from email.utils import formatdate
from functools import lru_cache, partial
from itertools import chain
from typing import Any, cast

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMessage

from chatbot.api.access.access_log import ACCESS_LOG, SERVED, UNMATCHED, AccessLog, ServedRequest
from chatbot.api.access.client_address import UNKNOWN, parse_address
from chatbot.api.middleware import COMMON_HEADERS, SERVER, request_id_of, set_headers
from chatbot.api.problems import RETRY_AFTER_S, Problem, internal_error, render
from chatbot.api.responses import JsonResponse
from chatbot.api.server.connection_limits import ConnectionLimits, Connections, HalfClosableProtocol
from chatbot.api.server.parse_errors import LINE_MAX_BYTES, find_origin, headers_too_large, problem_for_parse_error
from chatbot.api.server.path_prefix import strip_prefix
from chatbot.api.services import SERVE, SERVICES, Services
from chatbot.api.v1.error_form import is_v1, render_error
from chatbot.runtime.descriptors import raise_descriptor_limit

FIELD_FRAME_BYTES = 4  # of a header besides its name and value: colon, space and line end
LINGER_S = 2.0  # for which the rest of an unread body is read and discarded, so that its sender sees the answer


class HttpRunner(web.AppRunner):
    """An AppRunner whose connections are HttpProtocols."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return HttpServer(made, self.app, self._kwargs)

    @property
    def connections(self) -> Connections:
        """The connections of the server, which exists once the runner is set up."""
        return cast(HttpServer, self.server).open_connections


class HttpServer(web.Server):
    """Replaces the server `made` for the application, with the same options. The application's SERVE is called, and no
    middlewares.
    """

    def __init__(self, made: web.Server, app: web.Application, options: dict[str, Any]) -> None:
        if app.middlewares:
            raise ValueError("this server calls no middlewares: use SERVE")
        self.services = app[SERVICES]
        self.access_log = app[ACCESS_LOG]
        prefix = self.services.settings.server.path_prefix
        factory = strip_prefix(prefix, made.request_factory)
        super().__init__(cast(Any, self.handle_checked), request_factory=factory, **options)  # it makes web.Requests
        self.open_connections = _make_connections(self.services, self.access_log)
        self._app = app
        self._serve = app[SERVE]
        self._fixed_routes: dict[tuple[str, str], web.UrlMappingMatchInfo] = {}  # by method and path
        self._options = {name: value for name, value in options.items() if name != "handler_cancellation"}

    def __call__(self) -> web.RequestHandler:
        return HttpProtocol(self, self._options)

    async def handle_checked(self, request: web.Request) -> web.StreamResponse:
        """The application's answer, or a refusal of a request that asks for what this server does not support."""
        self.open_connections.mark_busy(cast(HttpProtocol, request.protocol))
        request[SERVED] = ServedRequest(time.perf_counter())
        refusal = self.find_refusal(request)
        if refusal is not None:
            return refusal
        try:
            found = self._fixed_routes.get((request.method, request.rel_url.raw_path))
            request._match_info = await self._find_route(request) if found is None else found
            if "Expect" in request.headers:
                await request.match_info.expect_handler(request)
            return await self._serve(request, self.services)
        except asyncio.CancelledError:
            self.access_log.write_cancelled(request)
            raise

    def find_refusal(self, request: web.BaseRequest) -> web.Response | None:
        """The refusal of a request that asks for what this server does not support."""
        problem = _unsupported(request, self.services.settings.server.headers_max_bytes)
        if problem is None:
            return None
        response = render_refusal(request, problem, self.services, request.headers.get("Origin"))
        if problem.status == 415:
            response.headers["Accept-Encoding"] = "identity"  # RFC 9110, 12.5.3
        return response

    async def _find_route(self, request: web.Request) -> web.UrlMappingMatchInfo:
        """As aiohttp finds it; for a path without variables, which has few values, it is remembered."""
        found = await self._app.router.resolve(request)
        found.add_app(self._app)
        found.freeze()
        resource, path = found.route.resource, request.rel_url.raw_path
        if resource is not None and resource.canonical == path:
            self._fixed_routes[request.method, path] = found
        return found


class HttpProtocol(HalfClosableProtocol):
    """One connection."""

    __slots__ = ("_access_log", "_origin", "_server")

    def __init__(self, server: HttpServer, options: dict[str, Any]) -> None:
        super().__init__(
            server,
            server.open_connections,
            loop=server._loop,
            max_line_size=LINE_MAX_BYTES,
            max_field_size=_field_max_bytes(server.services),
            auto_decompress=False,  # a small body may expand to a huge one, and decompressing blocks the event loop
            lingering_time=LINGER_S,
            **options,
        )
        self._access_log = server.access_log
        self._server = server
        self._origin: str | None = None  # of a request that aiohttp could not parse

    def on_parse_error(self, data: bytes) -> None:
        self._origin = find_origin(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As in aiohttp; then the request is in the access log, and the connection idle."""
        answer, client_left = resp, False
        try:
            if isinstance(resp, JsonResponse) and not self._upgraded and self._send_at_once(request, resp):
                await request.writer.drain()
            elif not resp._eof_sent or self._upgraded:
                answer, client_left = await super().finish_response(request, resp, start_time)
        except ConnectionError:
            client_left = True
        except asyncio.CancelledError:  # the client has left while the answer was sent, or the shutdown ended it
            self._access_log.write_answered(request, resp.status, client_left=request.transport is None)
            raise
        finally:
            body = request.content
            if not body.at_eof() and body.is_eof() and body.exception() is None:
                body.read_nowait()  # what nothing has read of it, which would be kept until the next request
            self.on_answer_end()
        if self._access_log.is_on:
            self._access_log.write_answered(request, answer.status, client_left=client_left)
        if self._messages:  # thousands may have come at once, and other connections have their turn in between
            await asyncio.sleep(0)
        return answer, client_left

    def _send_at_once(self, request: web.BaseRequest, response: JsonResponse) -> bool:
        """Send all of a usual answer as one piece; False: aiohttp is to send it. Raises ConnectionError."""
        body = response.body
        head = self._make_head(request, response, f"Content-Length: {len(body)}") if isinstance(body, bytes) else None
        if head is None:
            return False
        self._write(request, head + cast(bytes, body))
        response._keep_alive = response._eof_sent = True
        return True

    async def begin_stream(self, request: web.BaseRequest, response: web.StreamResponse, first: bytes) -> None:
        """As for any connection, but of a usual answer the head and `first` are one piece."""
        head = self._make_head(request, response, "Transfer-Encoding: chunked")
        if head is None:
            await super().begin_stream(request, response, first)
            return
        request.writer.enable_chunking()
        response._payload_writer, response._keep_alive, response._chunked = request.writer, True, True
        self._write(request, head + b"%x\r\n%b\r\n" % (len(first), first) if first else head)

    def _make_head(self, request: web.BaseRequest, response: web.StreamResponse, framing: str) -> bytes | None:
        """The head of a usual answer, without aiohttp's steps for answers that may have cookies, be compressed or have
        no body, and with the bytes that aiohttp and `add_headers` would make; None: they are to make it.

        `framing`: the header that tells where the answer ends.
        """
        served, headers = request[SERVED], response.headers
        is_new = response.keep_alive is None and not response.prepared and served.request_id
        is_usual = request.version == HttpVersion11 and request.method != "HEAD" and request.keep_alive
        if not (is_new and is_usual and request.content.is_eof()) or "Origin" in request.headers:
            return None
        if self._server.services.readiness.retiring or not all(map(str.isprintable, headers.values())):
            return None  # aiohttp refuses what is not printable
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        common = "".join([f"{name}: {value}\r\n" for name, value in COMMON_HEADERS.items() if name not in headers])
        status = served.status = response.status
        return (
            f"HTTP/1.1 {status} {response.reason}\r\n{own}{framing}\r\nDate: {_http_date(int(time.time()))}\r\n"
            f"Server: {SERVER}\r\nX-Request-ID: {served.request_id}\r\n{common}\r\n"
        ).encode()

    def _write(self, request: web.BaseRequest, data: bytes) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        request.writer.output_size += len(data)
        transport.write(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that aiohttp could not parse, or to a failure outside of the middleware."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer has already been sent")
        if isinstance(exc, BadHttpMessage):
            problem, origin = problem_for_parse_error(exc), self._origin
        else:
            structlog.get_logger("api").error("request.failed", error=type(exc).__name__, exc_info=exc)
            problem, origin = internal_error(), request.headers.get("Origin")
        return render_refusal(request, problem, self._server.services, origin)


@lru_cache(maxsize=1)
def _http_date(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)


def _make_connections(services: Services, access_log: AccessLog) -> Connections:
    server = services.settings.server
    return Connections(
        ConnectionLimits(
            raise_descriptor_limit(server.connections_max), server.write_timeout_s, server.unsent_max_bytes
        ),
        services.metrics,
        services.logger,
        partial(encode_connection_refusal, services, access_log),
    )


def encode_connection_refusal(services: Services, access_log: AccessLog, peer: object) -> bytes:
    """The whole answer to a connection beyond the limit. Its request is not read, so it gets a new request id."""
    problem = Problem(503, "overloaded", "Overloaded", "too many connections are open")
    response = render(problem, None, services.settings.server.path_prefix)
    response.headers["Connection"] = "close"
    response.headers["Content-Length"] = str(response.content_length)
    request_id = services.new_token()
    set_headers(response, services, request_id, None)
    head = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
    encoded = f"HTTP/1.1 {response.status} {response.reason}\r\n{head}\r\n".encode() + cast(bytes, response.body)
    address = parse_address(str(peer[0])) if isinstance(peer, tuple) else None
    access_log.write_refused_connection(address or UNKNOWN, response.status, request_id, len(encoded))
    return encoded


def render_refusal(request: web.BaseRequest, problem: Problem, services: Services, origin: str | None) -> web.Response:
    """The answer to a request that does not reach the middleware; it closes the connection."""
    services.metrics.observe_request(UNMATCHED, "OTHER", problem.status, 0.0)
    prefix = services.settings.server.path_prefix  # X-Forwarded-Prefix is among the headers, which may be unparsed
    response = render_error(problem, RETRY_AFTER_S) if is_v1(request.path) else render(problem, request, prefix)
    response.force_close()
    request_id = request_id_of(request, services)
    request.setdefault(SERVED, ServedRequest(time.perf_counter())).request_id = request_id
    set_headers(response, services, request_id, origin)
    return response


def _field_max_bytes(services: Services) -> int:
    """The limit of one header. Differs from LINE_MAX_BYTES, so that aiohttp's exception tells which was exceeded."""
    limit = services.settings.server.headers_max_bytes
    return limit if limit != LINE_MAX_BYTES else limit + 1


def _unsupported(request: web.BaseRequest, headers_max_bytes: int) -> Problem | None:
    """The refusal of headers that are too large or ask for what is not supported (RFC 9110, 10.1.1 and 15.5.16)."""
    fields = request.raw_headers
    if sum(map(len, chain.from_iterable(fields))) + FIELD_FRAME_BYTES * len(fields) > headers_max_bytes:
        return headers_too_large(f"the headers exceed {headers_max_bytes} bytes together")
    expected = request.headers.get("Expect")
    if expected is not None and expected.lower() != "100-continue":
        return Problem(417, "expectation-failed", "Expectation failed", "of Expect only 100-continue is known")
    for codings in request.headers.getall("Content-Encoding", ()):
        if any(one.strip().lower() not in ("", "identity") for one in codings.split(",")):
            why = "compressed bodies are not accepted: send the body as it is, without Content-Encoding"
            return Problem(415, "content-encoding", "Unsupported content encoding", why)
    return None
