"""Bounds on connections: how many are open, how long an answer may stay unread, how much unread answers may hold.

Clients that close their sending side once they have asked (`nc -N`, some probes) get their answer.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import structlog
from aiohttp import web
from msgspec import Struct

from chatbot.observability.metrics import Metrics

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

    def add(self, one: "BoundedProtocol") -> bool:
        """One more is open. Where that is too many, the one that is idle longest is closed; False: there is none."""
        self._open.add(one)
        self._metrics.connections.inc()
        has_room = len(self._open) <= self.limits.connections_max or self.close_idle()
        if has_room:
            self._idle[one] = None
        else:
            self._note_closed("refused")
        return has_room

    def remove(self, one: "BoundedProtocol") -> None:
        """It is closed."""
        if one in self._open:
            self._open.discard(one)
            self._metrics.connections.dec()
        self._idle.pop(one, None)
        self.mark_caught_up(one)

    def mark_busy(self, one: "BoundedProtocol") -> None:
        """It is being answered."""
        self._idle.pop(one, None)

    def mark_idle(self, one: "BoundedProtocol") -> None:
        """It waits for a request."""
        if one in self._open:
            self._idle[one] = None

    def close_idle(self) -> bool:
        """Close the connection that is idle longest; False: none is."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        self.remove(oldest)
        oldest.force_close()
        self._note_closed("idle")
        return True

    def mark_behind(self, one: "BoundedProtocol", unread_bytes: int) -> None:
        """It holds so much that its client has not taken. Where all hold too much, those longest behind are closed."""
        self._unread_bytes += unread_bytes - self._behind.get(one, 0)
        self._behind[one] = unread_bytes
        while self._unread_bytes > self.limits.unread_max_bytes and self._behind:
            self.close_now(next(iter(self._behind)), "unread")

    def mark_caught_up(self, one: "BoundedProtocol") -> None:
        """Its client has taken all, or is gone."""
        self._unread_bytes -= self._behind.pop(one, 0)

    def accept_failed(self) -> None:
        """The system had no room for another connection."""
        self._metrics.accept_failed()

    def close_now(self, one: "BoundedProtocol", reason: str) -> None:
        """Close it at once, whatever it was being sent."""
        self.remove(one)
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

    __slots__ = ("_connections", "_held_bytes", "_last_bytes", "_raw_transport", "_write_timer", "write_timeout_s")

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections
        self._raw_transport: asyncio.Transport | None = None  # also while aiohttp has let go of it, until it is closed
        self._held_bytes = 0
        self._last_bytes = 0
        self._write_timer: asyncio.TimerHandle | None = None
        self.write_timeout_s = connections.limits.write_timeout_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw_transport = self._raw_transport = cast(asyncio.Transport, transport)
        raw_transport.set_write_buffer_limits(0)
        super().connection_made(raw_transport)
        if not self._connections.add(self):
            raw_transport.write(self._connections.refusal())
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_write_timer()
        self._connections.remove(self)
        self._raw_transport = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()
        self._connections.mark_caught_up(self)

    def count_held_bytes(self, size: int) -> None:
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
            self._connections.mark_idle(self)

    def abort(self) -> None:
        """Close without sending what is still unread."""
        self._stop_write_timer()
        if self._raw_transport is not None:
            self._raw_transport.abort()

    def _start_write_timer(self) -> None:
        if self._raw_transport is None:
            return
        self._last_bytes = self._raw_transport.get_write_buffer_size()
        self._connections.mark_behind(self, self._last_bytes + self._held_bytes)
        self._write_timer = asyncio.get_running_loop().call_later(self.write_timeout_s, self._check_progress)

    def _check_progress(self) -> None:
        if self._raw_transport is None:
            return
        if self._raw_transport.get_write_buffer_size() >= self._last_bytes:
            self._connections.close_now(self, "write_timeout")
        else:  # it takes a little at a time
            self._start_write_timer()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


PING_S = 1.0  # between pings to a reader that may have left: only a write tells that


class HalfClosableProtocol(BoundedProtocol):
    """A connection whose client may close its sending side: what it has asked in full is answered first.

    A client that has left looks the same until something is written to it. `on_half_close` is called, so that a stream
    can write; where `leaving_cancels`, nothing is written for long, and the end of what the client sends is taken for
    its leaving. Both are of the request at hand.
    """

    __slots__ = ("_answered_count", "_body", "is_half_closed", "leaving_cancels", "on_half_close")

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, connections, **options)
        self.is_half_closed = False
        self.leaving_cancels = False
        self.on_half_close: Callable[[], None] | None = None
        self._answered_count = 0
        self._body: Any = None  # of the newest request

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]

    # aiohttp's returns None, which closes the transport; asyncio keeps it open for True
    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open."""
        if not self._owes_answers or not self._body.is_eof() or self.leaving_cancels:
            return False
        self.is_half_closed = True
        if self.on_half_close is not None:
            self.on_half_close()
        return True

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As aiohttp's. After the last answer to a client that asks no more the connection closes."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._answered_count += 1
            self.leaving_cancels, self.on_half_close = False, None
            if self.is_half_closed and not self._owes_answers:
                self.close()

    @property
    def _owes_answers(self) -> bool:
        return self._request_count > self._answered_count


def cancel_when_client_leaves(request: web.Request) -> None:
    """For a request that works for long without writing: take the end of what its client sends for its leaving."""
    if isinstance(request.protocol, HalfClosableProtocol):
        request.protocol.leaving_cancels = True
