"""One reader's event stream: headers, frames with back-pressure, pings, and letting go of who takes nothing."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import HttpVersion11, web

from chatbot.api.frames import PING
from chatbot.api.services import SERVICES

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",  # proxies may neither keep it nor compress it, which would buffer
    "X-Accel-Buffering": "no",
}

LEFT = 499  # nobody reads this answer: nginx's word for a client that has left


async def answer_stream(
    request: web.Request,
    write: Callable[["EventStream"], Awaitable[None]],
    *,
    headers: Mapping[str, str] = HEADERS,
    pings: bool = True,
) -> web.StreamResponse:
    """Open an event stream, let `write` fill it, end it. A reader that leaves ends it, too.

    Streams of another type have other `headers`, and no `pings`.
    """
    services = request.app[SERVICES]
    settings = services.settings.stream
    stream: EventStream | None = None
    with services.metrics.open_stream():
        try:
            stream = await EventStream.open(
                request, headers, settings.sse_ping_s if pings else math.inf, settings.write_timeout_s
            )
            await write(stream)
            await stream.close()
        except ConnectionError as error:
            # The reader has left. What it followed goes on, and it may come back for the rest.
            services.logger.debug("stream.left", reason=type(error).__name__)
        finally:
            if stream is not None:
                stream.release()
    return stream.response if stream is not None else web.Response(status=LEFT)


class EventStream:
    """An open answer of type text/event-stream.

    One timer watches over it: it pings a stream that has been silent for `ping_s`, and cuts off a reader that has let
    one write wait for `write_timeout_s`. So a frame costs no timer of its own. Times are seconds.
    """

    def __init__(
        self, response: web.StreamResponse, transport: asyncio.Transport, ping_s: float, timeout_s: float
    ) -> None:
        self.response = response
        self._transport = transport
        self._ping_s = ping_s
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()  # when the last write began
        self._is_writing = False
        self._pinging: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(min(ping_s, timeout_s), self._look)

    @classmethod
    async def open(
        cls, request: web.Request, headers: Mapping[str, str], ping_s: float, write_timeout_s: float
    ) -> "EventStream":
        """Send the headers. Raises ConnectionError when the reader has left already."""
        response = web.StreamResponse(headers=headers)
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:  # some proxies still ask so: the stream then ends with the connection
            response.force_close()
        await response.prepare(request)
        if request.transport is None:
            raise ConnectionResetError("the reader has left")
        return cls(response, request.transport, ping_s, write_timeout_s)

    async def send(self, frames: bytes) -> None:
        """Write, and wait for room in the socket. Raises ConnectionError when the reader has left or was cut off."""
        self._last_s = self._loop.time()
        self._is_writing = True
        await self.response.write(frames)
        self._is_writing = False

    async def close(self) -> None:
        """End the answer, unless the reader has left."""
        await self.response.write_eof()

    def cut(self, reason: Exception) -> None:
        """Break the connection off, so that nobody takes what was sent for the whole. Raises ConnectionError."""
        self._transport.abort()
        raise ConnectionAbortedError from reason

    def release(self) -> None:
        """Stop watching. To be called however the stream ended."""
        self._timer.cancel()
        if self._pinging is not None:
            self._pinging.cancel()

    def _look(self) -> None:
        silent_s = self._loop.time() - self._last_s
        if self._is_writing and silent_s >= self._timeout_s:
            self._transport.abort()  # the write that waits raises ConnectionError
            return
        if not self._is_writing and silent_s >= self._ping_s:
            self._pinging = self._loop.create_task(self._ping())
            silent_s = 0.0
        # A write that begins after this look may stall at once: look again before its time is up, too.
        next_s = self._timeout_s - silent_s if self._is_writing else min(self._ping_s - silent_s, self._timeout_s)
        self._timer = self._loop.call_later(max(next_s, 0.001), self._look)

    async def _ping(self) -> None:
        try:
            await self.send(PING)
        except ConnectionError:
            self._transport.abort()  # whoever waits for the next frame has its handler cancelled with the connection
