"""One reader's event stream: headers, frames with back-pressure, and letting go of a reader that takes nothing."""

import asyncio

from aiohttp import HttpVersion11, web

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",  # proxies may neither keep it nor compress it, which would buffer
    "X-Accel-Buffering": "no",
}


class ReaderStalled(ConnectionError):
    """The reader has taken nothing for too long."""


class EventStream:
    """An open answer of type text/event-stream."""

    def __init__(self, response: web.StreamResponse, write_timeout_s: float) -> None:
        self.response = response
        self._write_timeout_s = write_timeout_s

    @classmethod
    async def open(cls, request: web.Request, write_timeout_s: float) -> "EventStream":
        response = web.StreamResponse(headers=HEADERS)
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:  # some proxies still ask so: the stream then ends with the connection
            response.force_close()
        await response.prepare(request)
        return cls(response, write_timeout_s)

    async def send(self, frames: bytes) -> None:
        """Write, and wait for room in the socket. Raises ConnectionError when the reader has left or stalled."""
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self.response.write(frames)
        except TimeoutError:
            raise ReaderStalled(f"the reader took nothing for {self._write_timeout_s:g} s") from None

    async def close(self) -> None:
        await self.response.write_eof()
