"""HTTP client of one model server: connection pool, redirects, path prefixes, and failures as errors of the provider.

It is our own because a reply's text must pass from the socket to the reader without a task switch per token (README).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import msgspec

from chatbot.llm.http.connector import Connector
from chatbot.llm.http.error_mapping import JSON_ERRORS, error_from_status, read_retry_after
from chatbot.llm.http.http_connection import ConnectionLost, HttpConnection
from chatbot.llm.http.http_response import TRUNCATED, HttpResponse
from chatbot.llm.http.lenient_json import BOM
from chatbot.llm.http.read_coalescer import ReadCoalescer
from chatbot.llm.http.server_address import Address, parse_address, shown_origin
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import LlmError, LlmFailed, LlmUnavailable

# Shorter than uvicorn's 5 s: no request is sent on a connection that the server is just closing.
KEEPALIVE_S = 4.0
SUCCESS_STATUSES = range(200, 300)  # proxies and serverless platforms answer 201 and 203, too
REDIRECTS = (301, 302, 307, 308)  # 303 asks for a GET, and a reply is never one
REDIRECTS_MAX = 3
ROUTE_MISSING_STATUSES = (404, 405, 501)
ERROR_BODY_MAX_BYTES = 4096
ERROR_BODY_TIMEOUT_S = 5.0  # for the reason behind a status: some servers send the head and think
DOCUMENT_MAX_BYTES = 1_048_576  # of /health

Answer = TypeVar("Answer")


class NotJson(LlmFailed):
    """The model server's answer is no JSON"""


class ConnectionPool:
    """Idle connections to one server, each kept for KEEPALIVE_S.

    It has no bound of its own: the concurrency limiter bounds the replies that run, and so the connections.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[HttpConnection, float]] = []  # with the time when it became idle, oldest first
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def acquire(self) -> HttpConnection | None:
        """The connection that became idle last; None if there is none that is recent enough."""
        if self._idle and asyncio.get_running_loop().time() - self._idle[-1][1] < KEEPALIVE_S:
            return self._idle.pop()[0]
        self._close_idle(at_least_s=0.0)
        return None

    def release(self, connection: HttpConnection) -> None:
        """Keep a connection whose response has ended."""
        if self._is_closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        if self._expiry_timer is None:
            self._expiry_timer = loop.call_later(KEEPALIVE_S, self._close_expired)

    def close(self) -> None:
        self._is_closed = True
        self._close_idle(at_least_s=0.0)
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()

    def _close_expired(self) -> None:
        """Called by the one timer for all connections."""
        self._close_idle(at_least_s=KEEPALIVE_S)
        self._expiry_timer = (
            asyncio.get_running_loop().call_later(KEEPALIVE_S / 2, self._close_expired) if self._idle else None
        )

    def _close_idle(self, at_least_s: float) -> None:
        """Close those that have been idle for so long."""
        now_s = asyncio.get_running_loop().time()
        kept = [(connection, since_s) for connection, since_s in self._idle if now_s - since_s < at_least_s]
        for connection, _ in self._idle[: len(self._idle) - len(kept)]:
            connection.abort()
        self._idle = kept


class HttpClient:
    """Shared by all replies of a provider."""

    def __init__(self, options: LlmOptions) -> None:
        self.options = options
        self._server: tuple[Address, Connector] | None = None
        self._api_prefix: str | None = None  # the one that the server has answered
        self._pool = ConnectionPool()
        self._coalescer = ReadCoalescer(options.read_coalesce_max_s)
        self._is_closed = False

    def post(self, path: str, body: Any) -> Awaitable[HttpResponse]:
        """POST `body` as JSON to midm's `path`; returns once the response's head has come. Raises LlmError."""
        return self._post(f"{self._resolve_server()[0].prefix}{path}", msgspec.json.encode(body))

    def post_api(self, path: str, body: bytes) -> Awaitable[HttpResponse]:
        """As post(), of a path of OpenAI's API, below whatever prefix the server has it. `body` is JSON already."""
        if self._api_prefix is not None:
            return self._post(f"{self._api_prefix}{path}", body)
        return self._try_api_prefixes(lambda prefix: self._post(f"{prefix}{path}", body))

    async def get(self, path: str) -> Any:
        """The JSON at midm's `path`. Raises LlmError: NotJson, and LlmUnavailable after health_timeout_s."""
        return await self._get(f"{self._resolve_server()[0].prefix}{path}", DOCUMENT_MAX_BYTES)

    def get_api(self, path: str, max_bytes: int) -> Awaitable[Any]:
        """As get(), of a path of OpenAI's API and with a bound of its own."""
        return self._try_api_prefixes(lambda prefix: self._get(f"{prefix}{path}", max_bytes))

    async def _try_api_prefixes(self, send_request: Callable[[str], Awaitable[Answer]]) -> Answer:
        """Tries the possible prefixes of OpenAI's API until the server knows one, which is remembered."""
        if self._api_prefix is not None:
            return await send_request(self._api_prefix)
        first: LlmFailed | None = None
        for prefix in self._resolve_server()[0].api_prefixes:
            try:
                answer = await send_request(prefix)
            except LlmFailed as error:
                if error.status not in ROUTE_MISSING_STATUSES and not isinstance(error, NotJson):
                    raise
                first = first or error
            else:
                self._api_prefix = prefix
                return answer
        raise first or LlmFailed(TRUNCATED)

    async def _post(self, path: str, body: bytes) -> HttpResponse:
        response = await self._request("POST", path, body)
        if response.status in SUCCESS_STATUSES:
            return response
        try:
            error_response = await self._read_error(response)
        finally:
            response.close()
        raise self._with_url(error_response, path)

    async def _get(self, path: str, max_bytes: int) -> Any:
        try:
            async with asyncio.timeout(self.options.health_timeout_s):
                response = await self._request("GET", path)
                try:
                    return await self._read_json(response, max_bytes)
                except LlmError as error:
                    raise self._with_url(error, path) from error.__cause__
                finally:
                    response.close()
        except TimeoutError as error:
            silent = LlmUnavailable(f"No answer in {self.options.health_timeout_s:g} s")
            raise self._with_url(silent, path) from error

    async def close(self) -> None:
        self._is_closed = True
        self._pool.close()

    def _resolve_server(self) -> tuple[Address, Connector]:
        """Raises LlmUnavailable if the configured address is invalid or the client is closed."""
        if self._is_closed:
            raise LlmUnavailable("The model server's connections are closed")
        if self._server is None:
            try:
                address = parse_address(self.options.server_url, self.options.api_key)
                self._server = address, Connector(address, self.options.proxy, self.options.ca_file)
            except ValueError as error:
                raise LlmUnavailable from error
        return self._server

    def _with_url(self, error: LlmError, path: str = "") -> LlmError:
        """`error`, with the URL that was requested, unless it has one."""
        if self._server is not None and not error.requested_url:
            address, connector = self._server
            error.requested_url = connector.shown.replace(
                address.origin, f"{address.origin}{path.partition('?')[0]}", 1
            )
        return error

    async def _request(self, method: str, path: str, body: bytes = b"") -> HttpResponse:
        """The response, its head read. Follows redirects within this server. Raises LlmError."""
        address, connector = self._resolve_server()
        target = f"{path or '/'}{address.query}"
        for _ in range(REDIRECTS_MAX + 1):
            try:
                connection = await self._send(connector, method, target, body)
            except LlmError as error:
                raise self._with_url(error, target) from error.__cause__
            response = HttpResponse(connection, self.options, self._pool.release)
            if response.status not in REDIRECTS or not (location := response.header("Location")):
                return response
            response.close()
            target = self._redirect_target(target, location, response.status)
        raise self._with_url(LlmFailed(f"The model server redirects more than {REDIRECTS_MAX} times"), path)

    def _redirect_target(self, target: str, location: str, status: int) -> str:
        """Raises LlmFailed for a redirect to another server: it would get the key and the conversation."""
        address, _ = self._resolve_server()
        try:
            url = address.resolve(target, location)
            followed, where = address.target_of(url), shown_origin(url)
        except ValueError as error:
            bad = LlmFailed(f"The model server answered {status} and redirects to no URL", status=status)
            raise self._with_url(bad, target) from error
        if followed is None:
            message = f"The model server answered {status}: it redirects to {where}, which is not followed"
            raise self._with_url(LlmFailed(message, status=status), target)
        return followed

    async def _send(self, connector: Connector, method: str, target: str, body: bytes) -> HttpConnection:
        request = _format_request(method, f"{connector.target_prefix}{target}", connector.headers, body)
        while True:  # as often as there are idle connections, then once with a new one
            idle = self._pool.acquire()
            connection = idle or await connector.connect(
                partial(HttpConnection, self._coalescer), self.options.connect_timeout_s
            )
            try:
                await connection.send_request(request)
            except ConnectionLost as error:
                # llama.cpp closes a connection after each stream without saying so before: an old connection that
                # ends with no answer has most likely never carried the request. With a new one that is not so.
                if idle is None or not connection.has_received_nothing:
                    raise LlmFailed(TRUNCATED) from error
            except BaseException:
                connection.abort()
                raise
            else:
                return connection

    async def _read_error(self, response: HttpResponse) -> LlmError:
        try:
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                body = (await response.read_prefix(ERROR_BODY_MAX_BYTES))[:ERROR_BODY_MAX_BYTES]
        except (LlmFailed, TimeoutError):
            body = b""
        retry_after_s = read_retry_after(response.header, time.time())
        return error_from_status(response.status, body, retry_after_s, self.options.api_key)

    async def _read_json(self, response: HttpResponse, max_bytes: int) -> Any:
        if response.status not in SUCCESS_STATUSES:
            raise await self._read_error(response)
        body = await response.document(max_bytes)
        try:
            return msgspec.json.decode(body.removeprefix(BOM))
        except JSON_ERRORS as error:
            raise NotJson from error


def _format_request(method: str, target: str, headers: str, body: bytes) -> bytes:
    """An HTTP/1.1 request (RFC 9112, 3); a body is JSON."""
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\n{headers}{length}\r\n".encode("ascii") + body
