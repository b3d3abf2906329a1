"""The beat on which a crowd of replies is read: what many model connections bring is taken together, a few at once.

One connection to a model server. What arrives is parsed and handed on in the socket's own callback.

HTTP/1.1 (RFC 9112) is parsed by httptools, the binding of Node's parser; only the bytes of bodies come through here.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import httptools

COALESCE_FROM_REPLIES = 64  # replies that are being written: with fewer, there is nothing to save
COALESCE_FULL_REPLIES = 128  # so many are read at the slowest beat


class PausedConnection(Protocol):
    """A connection whose reply has begun to come."""

    def resume(self) -> None:
        """Read again."""
        ...


class ReadCoalescer:
    """Shared by all connections to a model server.

    A connection that has just been read is left alone until the next beat; the kernel keeps what comes meanwhile. So
    each is read once for two or three tokens, and all of a beat's news goes out in one round of writes: a token costs
    half, and waits for `max_s` at most. The beat slows down as the crowd grows; a few replies have none.
    """

    def __init__(self, max_s: float) -> None:
        self.active_replies = 0  # replies that have begun to come and have not ended
        self._max_s = max_s
        self._paused: list[PausedConnection] = []

    @property
    def is_active(self) -> bool:
        """Whether there are enough replies for a beat."""
        return self.active_replies >= COALESCE_FROM_REPLIES and self._max_s > 0

    def resume_later(self, connection: PausedConnection) -> None:
        """The rider has stopped reading: have it go on at the next beat."""
        if not self._paused:
            interval_s = self._max_s * min(self.active_replies / COALESCE_FULL_REPLIES, 1.0)
            asyncio.get_running_loop().call_later(interval_s, self._resume_all)
        self._paused.append(connection)

    def _resume_all(self) -> None:
        paused, self._paused = self._paused, []
        for connection in paused:
            connection.resume()


HEAD_MAX_BYTES = 65_536  # of an answer's status line and headers, and of what follows its body
UNREAD_MAX_BYTES = 65_536  # of a body that nobody takes yet: beyond it the socket is left alone

BodyConsumer = Callable[[bytes], bool]


class ConnectionLost(Exception):
    """The connection ended, or stopped being HTTP, before the answer's end."""


class HttpConnection(asyncio.Protocol):
    """Carries one request and its answer at a time. `silent`: nothing has come since the last request."""

    def __init__(self, beat: ReadCoalescer) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._coalescer = beat
        self._may_coalesce = False  # from a reply's first text to its end: then its reading may wait for the beat
        self._lost_reason: str | None = None  # why there is no more to come
        self._body_read: asyncio.Future[bool] | None = None
        self._consume: BodyConsumer = bool  # until somebody takes it, for real
        self._body_parts: list[bytes] = []
        self._is_paused = False
        self.on_body = self._body_parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self.silent = True
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.is_complete = False
        self._keeps_alive = False
        self._non_body_bytes = 0  # received since the last byte of a body
        self._head_received: asyncio.Future[None] | None = None

    @property
    def is_reusable(self) -> bool:
        """The answer has ended, and the connection is good for another."""
        is_sound = self._lost_reason is None and not self._transport.is_closing()
        return self.is_complete and self._keeps_alive and is_sound and not self._transport.get_write_buffer_size()

    async def send_request(self, request: bytes) -> None:
        """Send a request and wait for the head of its answer: `status`, `headers` by lower-case name. Raises Cut."""
        self._reset()
        self._body_parts.clear()  # of an answer that nobody wanted to its end
        if self._lost_reason is not None:
            raise ConnectionLost(self._lost_reason)
        self.resume()
        self._head_received = self._loop.create_future()
        self._transport.write(request)
        await self._head_received

    async def body(self, consume: BodyConsumer) -> bool:
        """Hand the body to `take`, all that one read brings at once, until it wants no more: True; False at the end.

        Raises Cut, and what `take` raises.
        """
        self._consume = consume
        self._body_read = self._loop.create_future()
        self._deliver_body()
        self.resume()
        try:
            return await self._body_read
        finally:
            self._body_read, self._consume = None, bool  # an idle connection must not hold the reply that it brought
            if self._may_coalesce:
                self._may_coalesce = False
                self._coalescer.active_replies -= 1

    def allow_coalescing(self) -> None:
        """The body's first text has come: from now on to its end it may be read on the beat."""
        if not self._may_coalesce:
            self._may_coalesce = True
            self._coalescer.active_replies += 1

    def resume(self) -> None:
        """Read again, if reading has paused."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def stop(self) -> None:
        """Whoever takes the body has enough."""
        if self._body_read is not None and not self._body_read.done():
            self._body_read.set_result(True)

    def abort(self) -> None:
        """Close at once: the server sees it and can stop writing."""
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is an asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.silent = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail_and_abort(f"no HTTP answer: {error!r}")
        self._non_body_bytes = 0 if self._body_parts else self._non_body_bytes + len(data)
        if self._non_body_bytes > HEAD_MAX_BYTES:
            self._fail_and_abort("the head of the answer has no end, or what follows its body")
        self._deliver_body()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.status and not self._has_explicit_length:
            self.is_complete = True  # a body without a length ends with its connection (RFC 9112, 6.3)
        self._fail(str(exc) if exc else "the connection was closed")
        self._deliver_body()
        del self._parser  # which holds our methods: a cycle, and with it all that we hold

    # httptools' callbacks; on_body is the list's own append

    def on_message_begin(self) -> None:
        if self._head_received is None or self.is_complete:
            raise ValueError("an answer that nobody has asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # else it is a trailer, and comes too late to change anything
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its like: the answer is still to come
            self.headers.clear()
            return
        self.status = status
        if self._head_received is not None and not self._head_received.done():
            self._head_received.set_result(None)

    def on_message_complete(self) -> None:
        if self.status:
            self.is_complete = True
            self._keeps_alive = self._parser.should_keep_alive()

    @property
    def _has_explicit_length(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def _fail(self, reason: str) -> None:
        self._lost_reason = self._lost_reason or reason
        if self._head_received is not None and not self._head_received.done():
            self._head_received.set_exception(ConnectionLost(self._lost_reason))

    def _pause(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()

    def _fail_and_abort(self, reason: str) -> None:
        self._fail(reason)
        self._transport.abort()

    def _deliver_body(self) -> None:
        """Give what has come to whoever takes it, and tell them when that is all."""
        done = self._body_read
        if done is None or done.done():
            if self._body_parts and not self._is_paused and sum(map(len, self._body_parts)) > UNREAD_MAX_BYTES:
                self._pause()
            return
        if self._body_parts:
            data = self._body_parts[0] if len(self._body_parts) == 1 else b"".join(self._body_parts)
            self._body_parts.clear()
            try:
                enough = self._consume(data)
            except Exception as error:  # noqa: BLE001  it is raised where the body is awaited
                done.set_exception(error)
                return
            if enough:
                done.set_result(True)
                return
        if self.is_complete:
            done.set_result(False)
        elif self._lost_reason is not None:
            done.set_exception(ConnectionLost(self._lost_reason))
        elif self._may_coalesce and self._coalescer.is_active:  # the kernel keeps what comes until then
            self._pause()
            self._coalescer.resume_later(self)
