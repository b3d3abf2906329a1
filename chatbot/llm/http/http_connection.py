"""One HTTP/1.1 connection to a model server (RFC 9112).

httptools, the binding of Node's parser, parses what arrives; the body is passed on in the socket's own callback.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

import httptools

from chatbot.llm.http.read_coalescer import LASTING_S, ReadCoalescer

HEAD_MAX_BYTES = 65_536  # of a response's status line and headers, and of what follows its body
UNREAD_MAX_BYTES = 65_536  # of a body that has no consumer yet: beyond it the socket is not read

BodyConsumer = Callable[[bytes], bool]  # returns True if it needs no more


class ConnectionLost(Exception):
    """The connection ended, or stopped being HTTP, before the response's end."""


class Phase(Enum):
    """How far the response to the last request has come."""

    IDLE = auto()  # no request was sent yet
    AWAITING_HEAD = auto()
    BODY = auto()  # the head has come, the end of the body has not
    COMPLETE = auto()
    LOST = auto()  # the connection failed before the response was complete


class _BodyRead(NamedTuple):
    """A call of read_body() that waits. `ended`: True if the consumer needs no more, False at the end of the body."""

    consume: BodyConsumer
    ended: asyncio.Future[bool]


class HttpConnection(asyncio.Protocol):
    """Carries one request and its response at a time.

    A response passes through the phases in order: send_request() begins it (AWAITING_HEAD), the parser moves it on
    (BODY, COMPLETE), and a failure before its end makes it LOST. `has_received_nothing`: no byte has come since the
    last request.
    """

    def __init__(self, coalescer: ReadCoalescer) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._coalescer = coalescer
        self._text_since_s: float | None = None  # on the loop's clock; from a reply's first text to its end
        self._lost_reason: str | None = None  # why nothing more will come on this connection
        self._body_read: _BodyRead | None = None
        self._body_parts: list[bytes] = []  # received, not consumed yet
        self._is_paused = False
        self._coalesced: int | None = None  # what ReadCoalescer.add() gave
        self.on_body = self._body_parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._reset(Phase.IDLE)

    def _reset(self, phase: Phase) -> None:
        self.has_received_nothing = True
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._phase = phase
        self._keeps_alive = False
        self._non_body_bytes = 0  # received since the last byte of a body
        self._head_received: asyncio.Future[None] | None = None

    @property
    def is_complete(self) -> bool:
        """The response has ended."""
        return self._phase is Phase.COMPLETE

    @property
    def is_reusable(self) -> bool:
        """The response has ended, and the connection can carry another one."""
        is_sound = self._lost_reason is None and not self._transport.is_closing()
        return self.is_complete and self._keeps_alive and is_sound and not self._transport.get_write_buffer_size()

    async def send_request(self, request: bytes) -> None:
        """Send a request and wait for the head of its response: `status`, `headers` by lower-case name.

        Raises ConnectionLost.
        """
        self._reset(Phase.AWAITING_HEAD)
        self._body_parts.clear()  # of a response that was not read to its end
        if self._lost_reason is not None:
            raise ConnectionLost(self._lost_reason)
        self.resume()
        self._head_received = self._loop.create_future()
        self._transport.write(request)
        await self._head_received

    async def read_body(self, consume: BodyConsumer) -> bool:
        """Pass the body to `consume`, all that one read of the socket brings at once.

        Returns True when `consume` (or stop_reading_body) wants no more, False at the end of the body. Raises
        ConnectionLost, and what `consume` raises.
        """
        self._body_read = _BodyRead(consume, self._loop.create_future())
        self._deliver_body()
        self.resume()
        try:
            return await self._body_read.ended
        finally:
            self._body_read = None  # an idle connection must not keep the reply alive that it brought
            if self._text_since_s is not None:
                self._text_since_s = None
                self._coalescer.active_replies -= 1
                self.resume()

    def allow_coalescing(self) -> None:
        """The body's first text has come: soon, and to its end, reads may be coalesced with those of others."""
        if self._text_since_s is None:
            self._text_since_s = self._loop.time()
            self._coalescer.active_replies += 1

    def resume(self) -> None:
        """Read again, if reading has paused or the coalescer reads."""
        if self._is_paused:
            self._is_paused = False
            self._leave_coalescer()
            self._transport.resume_reading()

    def stop_reading_body(self) -> None:
        """Let read_body() return as if its consumer wanted no more."""
        if self._body_read is not None and not self._body_read.ended.done():
            self._body_read.ended.set_result(True)

    def fail(self, reason: str) -> None:
        """Nothing more will come: close, and let those who wait know."""
        self._fail_and_abort(reason)
        self._deliver_body()

    def abort(self) -> None:
        """Close at once: the server sees it and can stop writing."""
        self._leave_coalescer()
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is an asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.has_received_nothing = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail_and_abort(f"no HTTP answer: {error!r}")
        self._non_body_bytes = 0 if self._body_parts else self._non_body_bytes + len(data)
        if self._non_body_bytes > HEAD_MAX_BYTES:
            self._fail_and_abort("the head of the answer has no end, or what follows its body")
        self._deliver_body()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._phase is Phase.BODY and not self._has_explicit_length:
            self._phase = Phase.COMPLETE  # a body without a length ends with its connection (RFC 9112, 6.3)
        self._leave_coalescer()
        self._fail(str(exc) if exc else "the connection was closed")
        self._deliver_body()
        del self._parser  # it holds our bound methods: a reference cycle, and with it all that we hold

    # httptools' callbacks; on_body is the list's own append

    def on_message_begin(self) -> None:
        if self._phase is not Phase.AWAITING_HEAD:
            raise ValueError("an answer that nobody has asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is Phase.AWAITING_HEAD:  # else it is a trailer, and comes too late to change anything
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # interim, such as 100 Continue: the response is still to come (RFC 9110, 15.2)
            self.headers.clear()
            return
        self.status = status
        self._phase = Phase.BODY
        if self._head_received is not None and not self._head_received.done():
            self._head_received.set_result(None)

    def on_message_complete(self) -> None:
        if self._phase is Phase.BODY:  # not after an interim response
            self._phase = Phase.COMPLETE
            self._keeps_alive = self._parser.should_keep_alive()

    @property
    def _has_explicit_length(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def _fail(self, reason: str) -> None:
        """Nothing more will come; a response that was complete stays so."""
        self._lost_reason = self._lost_reason or reason
        if self._phase is not Phase.COMPLETE:
            self._phase = Phase.LOST
        if self._head_received is not None and not self._head_received.done():
            self._head_received.set_exception(ConnectionLost(self._lost_reason))

    def _fail_and_abort(self, reason: str) -> None:
        self._fail(reason)
        self.abort()

    def _pause(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()

    def _join_coalescer(self) -> None:
        self._pause()
        self._coalesced = self._coalescer.add(self, self._transport)

    def _leave_coalescer(self) -> None:
        if self._coalesced is not None:
            self._coalescer.remove(self._coalesced)
            self._coalesced = None

    def _deliver_body(self) -> None:
        """Pass on what has arrived, and end the wait of read_body() where that was all."""
        body_read = self._body_read
        if body_read is None or body_read.ended.done():
            self._limit_unread()
            return
        if parts := self._body_parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            try:
                has_enough = body_read.consume(data)
            except Exception as error:  # noqa: BLE001  it is raised where the body is awaited
                body_read.ended.set_exception(error)
                return
            if has_enough:
                body_read.ended.set_result(True)
                return
        if self._phase is Phase.BODY:
            if (
                self._text_since_s is not None
                and not self._is_paused
                and self._coalescer.active_replies >= self._coalescer.replies_min
                and self._coalescer.note_read(self)
                and self._loop.time() - self._text_since_s >= LASTING_S
            ):
                self._join_coalescer()
        elif self._phase is Phase.COMPLETE:
            body_read.ended.set_result(False)
        else:
            body_read.ended.set_exception(ConnectionLost(self._lost_reason))

    def _limit_unread(self) -> None:
        """Pause a connection whose body has no consumer yet."""
        if self._body_parts and not self._is_paused and sum(map(len, self._body_parts)) > UNREAD_MAX_BYTES:
            self._pause()
