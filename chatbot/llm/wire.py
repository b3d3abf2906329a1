"""One connection to a model server. What arrives is parsed and handed on in the socket's own callback.

HTTP/1.1 (RFC 9112) is parsed by httptools, the binding of Node's parser; only the bytes of bodies come through here.
"""

import asyncio
from collections.abc import Callable

import httptools

from chatbot.llm.beat import Beat

HEAD_MAX_BYTES = 65_536  # of an answer's status line and headers, and of what follows its body
UNREAD_MAX_BYTES = 65_536  # of a body that nobody takes yet: beyond it the socket is left alone

Take = Callable[[bytes], bool]


class Cut(Exception):
    """The connection ended, or stopped being HTTP, before the answer's end."""


class Wire(asyncio.Protocol):
    """Carries one request and its answer at a time. `silent`: nothing has come since the last request."""

    def __init__(self, beat: Beat) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._beat = beat
        self._rides = False  # from a reply's first text to its end: then its reading may wait for the beat
        self._lost: str | None = None  # why there is no more to come
        self._done: asyncio.Future[bool] | None = None
        self._take: Take = bool  # until somebody takes it, for real
        self._parts: list[bytes] = []
        self._is_paused = False
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._begin()

    def _begin(self) -> None:
        self.silent = True
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.is_complete = False
        self._keeps_alive = False
        self._bare_bytes = 0  # received since the last byte of a body
        self._head: asyncio.Future[None] | None = None

    @property
    def is_reusable(self) -> bool:
        """The answer has ended, and the connection is good for another."""
        is_sound = self._lost is None and not self._transport.is_closing()
        return self.is_complete and self._keeps_alive and is_sound and not self._transport.get_write_buffer_size()

    async def ask(self, request: bytes) -> None:
        """Send a request and wait for the head of its answer: `status`, `headers` by lower-case name. Raises Cut."""
        self._begin()
        self._parts.clear()  # of an answer that nobody wanted to its end
        if self._lost is not None:
            raise Cut(self._lost)
        self.go_on()
        self._head = self._loop.create_future()
        self._transport.write(request)
        await self._head

    async def body(self, take: Take) -> bool:
        """Hand the body to `take`, all that one read brings at once, until it wants no more: True; False at the end.

        Raises Cut, and what `take` raises.
        """
        self._take = take
        self._done = self._loop.create_future()
        self._hand_on()
        self.go_on()
        try:
            return await self._done
        finally:
            self._done, self._take = None, bool  # an idle connection must not hold the reply that it brought
            if self._rides:
                self._rides = False
                self._beat.riders -= 1

    def ride(self) -> None:
        """The body's first text has come: from now on to its end it may be read on the beat."""
        if not self._rides:
            self._rides = True
            self._beat.riders += 1

    def go_on(self) -> None:
        """Read again, if reading has paused."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def stop(self) -> None:
        """Whoever takes the body has enough."""
        if self._done is not None and not self._done.done():
            self._done.set_result(True)

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
            self._break(f"no HTTP answer: {error!r}")
        self._bare_bytes = 0 if self._parts else self._bare_bytes + len(data)
        if self._bare_bytes > HEAD_MAX_BYTES:
            self._break("the head of the answer has no end, or what follows its body")
        self._hand_on()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self.status and not self._tells_its_length:
            self.is_complete = True  # a body without a length ends with its connection (RFC 9112, 6.3)
        self._fail(str(exc) if exc else "the connection was closed")
        self._hand_on()
        del self._parser  # which holds our methods: a cycle, and with it all that we hold

    # httptools' callbacks; on_body is the list's own append

    def on_message_begin(self) -> None:
        if self._head is None or self.is_complete:
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
        if self._head is not None and not self._head.done():
            self._head.set_result(None)

    def on_message_complete(self) -> None:
        if self.status:
            self.is_complete = True
            self._keeps_alive = self._parser.should_keep_alive()

    @property
    def _tells_its_length(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        if self._head is not None and not self._head.done():
            self._head.set_exception(Cut(self._lost))

    def _pause(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()

    def _break(self, reason: str) -> None:
        self._fail(reason)
        self._transport.abort()

    def _hand_on(self) -> None:
        """Give what has come to whoever takes it, and tell them when that is all."""
        done = self._done
        if done is None or done.done():
            if self._parts and not self._is_paused and sum(map(len, self._parts)) > UNREAD_MAX_BYTES:
                self._pause()
            return
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            try:
                enough = self._take(data)
            except Exception as error:  # noqa: BLE001  it is raised where the body is awaited
                done.set_exception(error)
                return
            if enough:
                done.set_result(True)
                return
        if self.is_complete:
            done.set_result(False)
        elif self._lost is not None:
            done.set_exception(Cut(self._lost))
        elif self._rides and self._beat.is_on:  # the kernel keeps what comes until then
            self._pause()
            self._beat.hold(self)
