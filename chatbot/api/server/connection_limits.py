"""Limits of connections and streams: how many are open, how long an answer may stay unread, memory of unread answers.

Slow readers are disconnected, the longest behind first (backpressure without unbounded buffers). A client that closes
its sending side after its request (`nc -N`, some probes; a TCP half-close) gets its answer.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

import structlog
from aiohttp import HttpVersion11, web
from msgspec import Struct

from chatbot.runtime.fair_limit import Owner, find_excess
from chatbot.sessions.domain.rejections import at_limit

LOG_INTERVAL_S = 60.0  # between two log lines of one kind, however many connections are closed in between


class ConnectionLimits(Struct, frozen=True):
    """`connections_max` open at once; `write_timeout_s` (seconds) within which a client has to read a part of its
    answer; `unread_max_bytes` that may be buffered for all clients together.
    """

    connections_max: int
    write_timeout_s: float
    unread_max_bytes: int


class ConnectionMetrics(Protocol):
    """Counts connections."""

    def connection_opened(self) -> None: ...

    def connection_ended(self) -> None: ...

    def connection_closed(self, reason: str) -> None:
        """It was closed before its client did."""
        ...

    def accept_failed(self) -> None: ...


class Connections:
    """The open connections of one listener, and which of them are idle or behind, longest first."""

    def __init__(
        self,
        limits: ConnectionLimits,
        metrics: ConnectionMetrics,
        logger: structlog.stdlib.BoundLogger,
        refusal: Callable[[object], bytes],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refusal` makes the whole answer to a connection beyond the limit, from its peer's address."""
        self.limits = limits
        self.refusal = refusal
        self._metrics = metrics
        self._logger = logger
        self._timer = timer
        self._open: set[BoundedProtocol] = set()
        self._idle: dict[BoundedProtocol, None] = {}  # longest idle first
        self._behind: dict[BoundedProtocol, int] = {}  # bytes buffered for each; longest behind first
        self._unread_bytes = 0
        self._logged_at_s: dict[str, float] = {}
        self._closed: dict[str, int] = {}

    @property
    def count(self) -> int:
        """The number of open connections."""
        return len(self._open)

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers that their clients have not read."""
        return self._unread_bytes

    def add(self, one: "BoundedProtocol") -> bool:
        """Register an open connection. Beyond the limit closes the longest idle one; False: none is idle."""
        self._open.add(one)
        self._metrics.connection_opened()
        has_room = len(self._open) <= self.limits.connections_max or self.close_idle()
        if has_room:
            self._idle[one] = None
        else:
            self._note_closed("refused")
        return has_room

    def remove(self, one: "BoundedProtocol") -> None:
        """Unregister a closed connection."""
        if one in self._open:
            self._open.discard(one)
            self._metrics.connection_ended()
        self._idle.pop(one, None)
        self.mark_caught_up(one)

    def mark_busy(self, one: "BoundedProtocol") -> None:
        """The connection has a request that is being answered."""
        self._idle.pop(one, None)

    def mark_idle(self, one: "BoundedProtocol") -> None:
        """The connection waits for a request."""
        if one in self._open:
            self._idle[one] = None

    def close_idle(self) -> bool:
        """Close the longest idle connection; False: none is idle."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        self.remove(oldest)
        oldest.force_close()
        self._note_closed("idle")
        return True

    def mark_behind(self, one: "BoundedProtocol", unread_bytes: int) -> None:
        """`unread_bytes` are buffered for its client. Closes the connections longest behind if all exceed the limit."""
        self._unread_bytes += unread_bytes - self._behind.get(one, 0)
        self._behind[one] = unread_bytes
        while self._unread_bytes > self.limits.unread_max_bytes and self._behind:
            self.close_now(next(iter(self._behind)), "unread")

    def mark_caught_up(self, one: "BoundedProtocol") -> None:
        """Its client has read everything, or is disconnected."""
        self._unread_bytes -= self._behind.pop(one, 0)

    def accept_failed(self) -> None:
        """The system refused another connection."""
        self._metrics.accept_failed()

    def close_now(self, one: "BoundedProtocol", reason: str) -> None:
        """Close it immediately, also in the middle of an answer."""
        one.cut = reason
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
    """One connection, within the limits of `connections`.

    Its transport's buffer has no free space (high-water mark 0): a writer waits until the client has read everything.
    The write timeout here covers any answer; `ResponseStream` has its own for streams, which also sends pings.
    `cut`: why the service has closed it in the middle of an answer.
    """

    __slots__ = (
        "_connections",
        "_held_bytes",
        "_last_bytes",
        "_raw_transport",
        "_write_timer",
        "cut",
        "write_timeout_s",
    )

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections
        self._raw_transport: asyncio.Transport | None = None  # until closed; aiohttp drops its own earlier
        self._held_bytes = 0
        self._last_bytes = 0
        self._write_timer: asyncio.TimerHandle | None = None
        self.write_timeout_s = connections.limits.write_timeout_s
        self.cut: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw_transport = self._raw_transport = cast(asyncio.Transport, transport)
        raw_transport.set_write_buffer_limits(0)
        super().connection_made(raw_transport)
        if not self._connections.add(self):
            raw_transport.write(self._connections.refusal(raw_transport.get_extra_info("peername")))
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
        """`size` bytes of the answer are in memory, besides the transport's buffer, until the answer is finished."""
        self._held_bytes = size

    def on_answer_end(self) -> None:
        """An answer is complete, or has failed: the connection is idle."""
        self._held_bytes = 0
        self.write_timeout_s = self._connections.limits.write_timeout_s
        self._connections.mark_idle(self)

    async def begin_stream(self, request: web.BaseRequest, response: web.StreamResponse, first: bytes) -> None:
        """Send the head of a streamed answer, and `first` unless it is empty. Raises ConnectionError."""
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:  # some proxies still use HTTP/1.0: the stream ends with the connection
            response.force_close()
        await response.prepare(request)
        if first:
            await response.write(first)

    def abort(self) -> None:
        """Close without sending the rest."""
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
        else:  # it reads slowly
            self._start_write_timer()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


PING_S = 1.0  # between pings to a reader that may have left: only a failed write shows that


class HalfClosableProtocol(BoundedProtocol):
    """A connection whose client may close its sending side (half-close): complete requests are still answered.

    A client that has left looks the same until something is written to it. `on_half_close` is called, so that a stream
    can write. With `leaving_cancels`, for a request that writes nothing for long, a half-close counts as leaving. Both
    apply to the current request.
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
            message, self._body = self._messages[-1]
            if not hasattr(message, "headers"):  # what aiohttp queues for bytes that it cannot parse
                self.on_parse_error(data)

    def on_parse_error(self, data: bytes) -> None:
        """`data` is not valid HTTP."""

    # aiohttp's returns None, which closes the transport; True keeps it open
    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open."""
        if not self._owes_answers or not self._body.is_eof() or self.leaving_cancels:
            return False
        self.is_half_closed = True
        if self.on_half_close is not None:
            self.on_half_close()
        return True

    def on_answer_end(self) -> None:
        """After the last answer to a half-closed client the connection closes."""
        super().on_answer_end()
        self._answered_count += 1
        self.leaving_cancels, self.on_half_close = False, None
        if self.is_half_closed and not self._owes_answers:
            self.close()

    @property
    def _owes_answers(self) -> bool:
        return self._request_count > self._answered_count


def cancel_when_client_leaves(request: web.Request) -> None:
    """For a request that works for long without writing: treat a half-close by its client as leaving."""
    if isinstance(request.protocol, HalfClosableProtocol):
        request.protocol.leaving_cancels = True


class StreamLimit:
    """Limits how many streams, or other expensive requests, are open at once: each holds a socket and a task. Beyond
    `open_max` an owner gets its equal part of them (see FairLimit), and never more than `owner_max`; 0: no such limit.
    """

    def __init__(self, open_max: int, refusal: str = "too many streams are open", owner_max: int = 0) -> None:
        self._open_max = open_max
        self._owner_max = owner_max
        self._refusal = refusal
        self._open = 0
        self._open_of: dict[Owner, int] = {}  # no entry for an owner without open streams

    def acquire(self, owner: Owner) -> "OpenStream":
        """A context manager for one more, to be entered immediately. Raises Overloaded, OverShare beyond the limits."""
        if self._open >= self._open_max or self._owner_max:
            excess = find_excess(self._open_of, self._open, owner, 1, self._open_max, self._owner_max)
            if excess is not None:
                raise at_limit(excess, self._refusal)
        return OpenStream(self, owner)

    def _count(self, owner: Owner, change: int) -> None:
        self._open += change
        count = self._open_of.get(owner, 0) + change
        if count:
            self._open_of[owner] = count
        else:
            del self._open_of[owner]


class OpenStream:
    """Counts one open stream of an owner."""

    __slots__ = ("_limit", "_owner")

    def __init__(self, limit: StreamLimit, owner: Owner) -> None:
        self._limit = limit
        self._owner = owner

    def __enter__(self) -> None:
        self._limit._count(self._owner, 1)

    def __exit__(self, *_: object) -> None:
        self._limit._count(self._owner, -1)


def count_held_bytes(request: web.Request, size: int) -> None:
    """Count `size` bytes that an answer holds in memory towards the unread bytes of its connection."""
    if isinstance(request.protocol, BoundedProtocol):
        request.protocol.count_held_bytes(size)


def note_cut(transport: asyncio.BaseTransport, reason: str) -> None:
    """The connection is about to be aborted in the middle of an answer."""
    protocol = cast(asyncio.Transport, transport).get_protocol()
    if isinstance(protocol, BoundedProtocol):
        protocol.cut = reason
