"""One reader's event stream: headers, frames with back-pressure, pings, and letting go of who takes nothing."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from msgspec import Struct

from chatbot.api.server.connection_limits import PING_S as PROBE_PING_S
from chatbot.api.server.connection_limits import BoundedProtocol, HalfClosableProtocol
from chatbot.api.services import SERVICES
from chatbot.api.streaming.frames import PING

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",  # proxies may neither keep it nor compress it, which would buffer
    "X-Accel-Buffering": "no",
}


class ReaderConnection(Struct, frozen=True):
    """The two ways to one reader: aiohttp's writer, and the transport below it."""

    writer: AbstractStreamWriter
    transport: asyncio.Transport


FIRST_PROBE_S = 0.001  # between the first pings to a reader that may have left; then doubled
CLIENT_LEFT_STATUS = 499  # nobody reads this answer: nginx's word for a client that has left


async def stream_response(
    request: web.Request,
    write: Callable[["ResponseStream"], Awaitable[None]],
    *,
    headers: Mapping[str, str] = HEADERS,
    ping_s: float | None = None,
) -> web.StreamResponse:
    """Open an event stream, let `write` fill it, end it. A reader that leaves ends it, too.

    Streams of another type have other `headers`; `ping_s` None: as the settings say, infinite: no pings.
    """
    services = request.app[SERVICES]
    settings = services.settings.stream
    if ping_s is None:
        ping_s = settings.sse_ping_s
    # What never pings is a document: its client is to take it, not to wait for news.
    timeout_s = services.settings.server.write_timeout_s if math.isinf(ping_s) else settings.write_timeout_s
    protocol = request.protocol
    if isinstance(protocol, BoundedProtocol):
        protocol.write_timeout_s = timeout_s
    stream: ResponseStream | None = None
    with services.metrics.open_stream():
        try:
            stream = await ResponseStream.open(request, headers, ping_s, timeout_s)
            if isinstance(protocol, HalfClosableProtocol):
                protocol.on_half_close = stream.probe_reader
                if protocol.is_half_closed:
                    stream.probe_reader()
            await write(stream)
            await stream.close()
        except ConnectionError as error:
            # The reader has left. What it followed goes on, and it may come back for the rest.
            services.logger.debug("stream.left", reason=type(error).__name__)
        except Exception:
            if stream is not None:
                stream.abort()  # or the problem document would be taken for a part of this answer
            raise
        finally:
            if stream is not None:
                stream.stop_timer()
    return stream.response if stream is not None else web.Response(status=CLIENT_LEFT_STATUS)


class ResponseStream:
    """An open answer of type text/event-stream.

    aiohttp writes the answer's head and its end; what lies between goes to the transport as it is, in chunks (RFC 9112,
    7.1), which can be done in any callback. The transport has no room (`BoundedProtocol`): what a reader does not take
    at once makes it a slow one. One timer watches over the stream: it pings one that has been silent for
    `ping_s`, and cuts off a reader that has left no room for `timeout_s`. So a frame costs no timer of its own. Times
    are seconds.
    """

    __slots__ = (
        "_has_ended",
        "_is_chunked",
        "_last_s",
        "_loop",
        "_ping_s",
        "_probe_ping_max_s",
        "_timeout_s",
        "_timer",
        "_transport",
        "_writer",
        "response",
    )

    def __init__(
        self, response: web.StreamResponse, connection: ReaderConnection, ping_s: float, timeout_s: float
    ) -> None:
        self.response = response
        self._writer, self._transport = connection.writer, connection.transport
        self._ping_s = ping_s
        self._probe_ping_max_s: float | None = None  # in the end, of a reader that may have left
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()  # when the last write began
        self._has_ended = False
        self._is_chunked = response.chunked
        self._timer = self._loop.call_later(min(ping_s, timeout_s), self._check_reader)

    @classmethod
    async def open(
        cls, request: web.Request, headers: Mapping[str, str], ping_s: float, write_timeout_s: float
    ) -> "ResponseStream":
        """Send the headers. Raises ConnectionError when the reader has left already."""
        response = web.StreamResponse(headers=headers)
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:  # some proxies still ask so: the stream then ends with the connection
            response.force_close()
        writer = await response.prepare(request)
        if request.transport is None or writer is None:
            raise ConnectionResetError("the reader has left")
        return cls(response, ReaderConnection(writer, request.transport), ping_s, write_timeout_s)

    def push(self, frames: bytes) -> bool:
        """Write at once. False: the socket took not all of it; wait for `room` before the next.

        Raises ConnectionError when the reader has left.
        """
        transport = self._transport
        if transport.is_closing():
            raise ConnectionResetError("the reader has left")
        self._last_s = self._loop.time()
        transport.write(b"%x\r\n%b\r\n" % (len(frames), frames) if self._is_chunked else frames)
        return transport.get_write_buffer_size() == 0

    async def drain(self) -> None:
        """Return when the socket has taken all of it. Raises ConnectionError when the reader has left or is cut off."""
        await self._writer.drain()

    async def send(self, frames: bytes) -> None:
        """Write, and wait for room in the socket. Raises ConnectionError when the reader has left or was cut off."""
        if not self.push(frames):
            await self.drain()

    async def close(self, frames: bytes = b"") -> None:
        """End the answer, unless it has ended. Its last frames may go in one write with its end.

        Raises ConnectionError when the reader has left or was cut off.
        """
        if not self._has_ended:
            self._has_ended, self._last_s = True, self._loop.time()
            await self.response.write_eof(frames)

    def break_off(self, reason: Exception) -> None:
        """Break the connection off, so that nobody takes what was sent for the whole. Raises ConnectionError."""
        self.abort()
        raise ConnectionAbortedError from reason

    def abort(self) -> None:
        """Break the connection off."""
        self._transport.abort()

    def probe_reader(self) -> None:
        """The reader sends no more: it may have left, which only a write tells, or rather the second one, after the
        first was refused. Ping it now, after a millisecond, and then less and less often.
        """
        if math.isfinite(self._ping_s):
            self._probe_ping_max_s = min(self._ping_s, PROBE_PING_S)
            self._ping_s = min(FIRST_PROBE_S, self._probe_ping_max_s)
            self._timer.cancel()
            self._last_s = self._loop.time() - self._ping_s
            self._check_reader()

    def stop_timer(self) -> None:
        """Stop watching. To be called however the stream ended."""
        self._timer.cancel()

    def _check_reader(self) -> None:
        """What was written and not taken tells a reader that stalls, whoever wrote it: a frame, a ping or the end."""
        silent_s, is_stuck = self._loop.time() - self._last_s, self._transport.get_write_buffer_size() > 0
        if is_stuck and silent_s >= self._timeout_s:
            self._transport.abort()  # whoever waits for room gets ConnectionError
            return
        if not is_stuck and silent_s >= self._ping_s and not self._has_ended:
            self._ping()
            silent_s = 0.0
            if self._probe_ping_max_s is not None:
                self._ping_s = min(self._ping_s * 2, self._probe_ping_max_s)
        # A write that begins after this look may stall at once: look again before its time is up, too.
        next_s = self._timeout_s - silent_s if is_stuck else min(self._ping_s - silent_s, self._timeout_s)
        self._timer = self._loop.call_later(max(next_s, 0.001), self._check_reader)

    def _ping(self) -> None:
        """No need to wait for room: there is no other ping before this one is gone."""
        with suppress(ConnectionError):  # the handler is cancelled with the connection
            self.push(PING)
