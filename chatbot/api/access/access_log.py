"""The access log: one line for each request, once it is answered or its client has left.

A line has no path, no query and no headers, which may contain ids of sessions, tickets and secrets: only the route's
template. Lines go through the bounded queue of observability/log_writer.py, like all others.
"""

import logging
import time

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct
from msgspec.structs import asdict

from chatbot.api.access.client_address import client_address
from chatbot.api.server.connection_limits import BoundedProtocol
from chatbot.config.settings import Settings
from chatbot.observability.log_writer import LogWriter
from chatbot.observability.logging_setup import process_fields, writes_json
from chatbot.runtime.clock import timestamp

UNMATCHED = "unmatched"  # the route of requests that reach none, also in metrics
CLIENT_LEFT_STATUS = 499  # what nginx logs for a client that has left before its answer
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "OTHER"
PROBES = frozenset({"/livez", "/readyz", "/metrics"})  # called every few seconds: a line each would hide the others
ASSETS = "/assets/"  # dozens for each page that is loaded
LEVELS = {logging.DEBUG: "debug", logging.INFO: "info"}
EVENT = '"event":"request.served","logger":"api"'  # with the two before it, what each line begins with

_encode = msgspec.json.Encoder().encode


class ServedRequest(Struct):
    """What is noted of a request while it is answered. `key`: the name of the API key; `status`: as sent so far."""

    started_s: float  # by time.perf_counter
    route: str = UNMATCHED
    key: str | None = None
    status: int = CLIENT_LEFT_STATUS
    request_id: str = ""  # until it is assigned


SERVED: web.RequestKey[ServedRequest] = web.RequestKey("served", ServedRequest)


class AccessLine(Struct, frozen=True):
    """The fields of a line. `bytes` were sent, with the headers; `client_left`: before it had the whole answer.
    `cut`: why the service closed the connection before that.
    """

    method: str | None  # None: the request was not read
    route: str
    status: int
    duration_ms: float
    bytes: int
    request_id: str | None
    key: str | None
    client: str
    client_left: bool
    cut: str | None = None


class AccessLog:
    """Writes the lines of the requests to one port."""

    def __init__(
        self, settings: Settings, logger: structlog.stdlib.BoundLogger, writer: LogWriter | None, *, is_on: bool
    ) -> None:
        """`writer`: where log lines are written in the background; None: they are not."""
        level = "debug" if settings.server.debug else settings.logging.level
        self.is_on = is_on
        self._level = logging.getLevelNamesMapping()[level.upper()]
        self._trusted_proxies = settings.server.trusted_proxies
        self._logger = logger
        fields = _encode(process_fields())[1:-1].decode()
        self._event = f"{EVENT},{fields}" if fields else EVENT
        self._json_writer = writer if writer is not None and writes_json(settings.logging.format, writer) else None

    def write_answered(self, request: web.BaseRequest, status: int, *, client_left: bool) -> None:
        """The line of a request whose answer is complete; with `client_left` its client did not wait for all of it.

        Probes and the page's assets are logged at level debug, unless they fail.
        """
        served = request.get(SERVED)
        route = served.route if served is not None else UNMATCHED
        is_routine = status < 400 and (route in PROBES or route.startswith(ASSETS))
        level = logging.DEBUG if is_routine else logging.INFO
        if not self._writes(level):
            return
        cut = request.protocol.cut if isinstance(request.protocol, BoundedProtocol) else None
        line = AccessLine(
            method=request.method if request.method in METHODS else OTHER_METHOD,
            route=route,
            status=status,
            duration_ms=round((time.perf_counter() - served.started_s) * 1000, 3) if served is not None else 0.0,
            bytes=request.writer.output_size,
            request_id=served.request_id if served is not None else None,
            key=served.key if served is not None else None,
            client=client_address(request, self._trusted_proxies),
            client_left=client_left and cut is None,
            cut=cut,
        )
        self._write(line, level)

    def write_cancelled(self, request: web.BaseRequest) -> None:
        """The line of a request whose client has left while it was answered, or that the shutdown ended."""
        self.write_answered(request, request[SERVED].status, client_left=request.transport is None)

    def write_refused_connection(self, address: str, status: int, request_id: str, size: int) -> None:
        """The line of a connection beyond the limit, whose request was not read."""
        if self._writes(logging.INFO):
            line = AccessLine(None, UNMATCHED, status, 0.0, size, request_id, None, address, client_left=False)
            self._write(line, logging.INFO)

    def _writes(self, level: int) -> bool:
        return self.is_on and level >= self._level

    def _write(self, line: AccessLine, level: int) -> None:
        """JSON is written without structlog and logging, which cost ten times as much as the line."""
        if self._json_writer is None:
            self._logger.log(level, "request.served", **asdict(line))
            return
        head = f'{{"timestamp":"{timestamp(time.time_ns() // 1000)}","level":"{LEVELS[level]}",{self._event},'
        self._json_writer.write(f"{head}{_encode(line)[1:].decode()}\n")


ACCESS_LOG: web.AppKey[AccessLog] = web.AppKey("access_log", AccessLog)
