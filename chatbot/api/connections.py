"""Bounds on connections: how many are open, how long an answer may stay unread, how much unread answers may hold."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import structlog
from aiohttp import web
from msgspec import Struct

from chatbot.metrics import Metrics

LOG_INTERVAL_S = 60.0  # between two log lines of one kind, however many connections are closed meanwhile


class ConnectionLimits(Struct, frozen=True):
    """`connections_max` open at once; `write_timeout_s` in which a client has to take something of an answer;
    `unread_max_bytes` that all answers together may hold which their clients have not taken.
    """

    connections_max: int
    write_timeout_s: float
    unread_max_bytes: int


class Connections:
    """All open connections of one listener, and which of them are idle or behind, the longest first."""

    def __init__(
        self,
        limits: ConnectionLimits,
        metrics: Metrics,
        logger: structlog.stdlib.BoundLogger,
        refusal: Callable[[], bytes],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refusal` makes the whole answer to a connection that is one too many."""
        self.limits = limits
        self.refusal = refusal
        self._metrics = metrics
        self._logger = logger
        self._timer = timer
        self._open: set[BoundedProtocol] = set()
        self._idle: dict[BoundedProtocol, None] = {}  # in the order in which they became idle
        self._behind: dict[BoundedProtocol, int] = {}  # what each holds; in the order in which they fell behind
        self._unread_bytes = 0
        self._logged_at_s: dict[str, float] = {}
        self._closed: dict[str, int] = {}

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def unread_bytes(self) -> int:
        """What answers hold for clients that have not taken it."""
        return self._unread_bytes

    def opened(self, one: "BoundedProtocol") -> bool:
        """One more is open. Where that is too many, the one that is idle longest is closed; False: there is none."""
        self._open.add(one)
        self._metrics.connections.inc()
        has_room = len(self._open) <= self.limits.connections_max or self.close_idle()
        if has_room:
            self._idle[one] = None
        else:
            self._note_closed("refused")
        return has_room

    def gone(self, one: "BoundedProtocol") -> None:
        """It is closed."""
        if one in self._open:
            self._open.discard(one)
            self._metrics.connections.dec()
        self._idle.pop(one, None)
        self.caught_up(one)

    def busy(self, one: "BoundedProtocol") -> None:
        """It is being answered."""
        self._idle.pop(one, None)

    def idle(self, one: "BoundedProtocol") -> None:
        """It waits for a request."""
        if one in self._open:
            self._idle[one] = None

    def close_idle(self) -> bool:
        """Close the connection that is idle longest; False: none is."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        self.gone(oldest)
        oldest.force_close()
        self._note_closed("idle")
        return True

    def behind(self, one: "BoundedProtocol", unread_bytes: int) -> None:
        """It holds so much that its client has not taken. Where all hold too much, those longest behind are closed."""
        self._unread_bytes += unread_bytes - self._behind.get(one, 0)
        self._behind[one] = unread_bytes
        while self._unread_bytes > self.limits.unread_max_bytes and self._behind:
            self.cut(next(iter(self._behind)), "unread")

    def caught_up(self, one: "BoundedProtocol") -> None:
        """Its client has taken all, or is gone."""
        self._unread_bytes -= self._behind.pop(one, 0)

    def accept_failed(self) -> None:
        """The system had no room for another connection."""
        self._metrics.accept_failed()

    def cut(self, one: "BoundedProtocol", reason: str) -> None:
        """Close it at once, whatever it was being sent."""
        self.gone(one)
        one.abort()
        self._note_closed(reason)

    def _note_closed(self, reason: str) -> None:
        self._metrics.connection_closed(reason)
        self._closed[reason] = self._closed.get(reason, 0) + 1
        now_s = self._timer()
        if now_s - self._logged_at_s.get(reason, -LOG_INTERVAL_S) >= LOG_INTERVAL_S:
            self._logged_at_s[reason] = now_s
            count = self._closed.pop(reason)
            self._logger.warning("connections.closed", reason=reason, closed=count, open=len(self._open))


class BoundedProtocol(web.RequestHandler):
    """One connection that keeps to the bounds of `connections`.

    Its transport has no room for what the client does not take: whoever writes waits until all of it is gone.
    """

    __slots__ = ("_connections", "_held_bytes", "_last_bytes", "_stuck", "_wire", "write_timeout_s")

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections
        self._wire: asyncio.Transport | None = None  # also while aiohttp has let go of it, until it is closed
        self._held_bytes = 0
        self._last_bytes = 0
        self._stuck: asyncio.TimerHandle | None = None
        self.write_timeout_s = connections.limits.write_timeout_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = self._wire = cast(asyncio.Transport, transport)
        wire.set_write_buffer_limits(0)
        super().connection_made(wire)
        if not self._connections.opened(self):
            wire.write(self._connections.refusal())
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_watching()
        self._connections.gone(self)
        self._wire = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()
        self._connections.caught_up(self)

    def hold(self, size: int) -> None:
        """`size` bytes of the answer wait outside of the transport until it has room."""
        self._held_bytes = size

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As aiohttp's. Then the connection is idle."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._held_bytes = 0
            self.write_timeout_s = self._connections.limits.write_timeout_s
            self._connections.idle(self)

    def abort(self) -> None:
        """Close without sending what is still unread."""
        self._stop_watching()
        if self._wire is not None:
            self._wire.abort()

    def _watch(self) -> None:
        if self._wire is None:
            return
        self._last_bytes = self._wire.get_write_buffer_size()
        self._connections.behind(self, self._last_bytes + self._held_bytes)
        self._stuck = asyncio.get_running_loop().call_later(self.write_timeout_s, self._look)

    def _look(self) -> None:
        if self._wire is None:
            return
        if self._wire.get_write_buffer_size() >= self._last_bytes:
            self._connections.cut(self, "write_timeout")
        else:  # it takes a little at a time
            self._watch()

    def _stop_watching(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
