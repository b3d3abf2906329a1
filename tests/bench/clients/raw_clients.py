"""Thin clients on raw protocols: one that asks and waits, one that follows a session, one that hardly reads.

Thin, so that ten thousand of them fit on the driver's core and the server's cost is what shows.
"""

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

SLOW_BUFFER = 4096  # bytes that the kernel keeps for a slow reader
SLOW_BYTES = 1024  # that a slow reader takes a second, if any
_length = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_frame = re.compile(rb"data: (\{.*?\})\n\n", re.DOTALL)


class Caller(asyncio.Protocol):
    """A connection that is kept: one request at a time."""

    def __init__(self) -> None:
        self.arrivals_s: list[float] = []  # when the pieces of the newest answer came
        self._received = bytearray()
        self._answered: asyncio.Future[bytes] | None = None
        self._transport: Any = None

    @classmethod
    async def open(cls, url: str) -> "Caller":
        _, caller = await asyncio.get_running_loop().create_connection(cls, *address(url))
        return caller

    async def ask(self, method: str, path: str, body: object = None) -> bytes:
        """The answer's body, as it came: a stream's with its chunks. Raises AssertionError for any status but 2xx."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._received.clear()
        self.arrivals_s.clear()
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(content), content))
        return await self._answered

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.arrivals_s.append(time.perf_counter())
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answered is None or self._answered.done():
            return
        length = _length.search(self._received, 0, end)
        whole = (
            self._received.endswith(b"\r\n0\r\n\r\n")
            if length is None
            else len(self._received) >= end + 4 + int(length[1])
        )
        if not whole:
            return
        if self._received[9:10] == b"2":
            self._answered.set_result(bytes(self._received[end + 4 :]))
        else:
            self._answered.set_exception(AssertionError(bytes(self._received[:2000])))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError("the server has hung up"))


class FeedReader(asyncio.Protocol):
    """Follows a session as fast as the service writes. What comes is kept only where `kept` is a list."""

    def __init__(self, session_id: str, began: Callable[[], None]) -> None:
        self.session_id = session_id
        self.kept: list[bytes] | None = None
        self.lost = False
        self._began: Callable[[], None] | None = began
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(_request(self.session_id))

    def data_received(self, data: bytes) -> None:
        if self._began is not None and b"data: " in data:
            self._began()
            self._began = None
        if self.kept is not None:
            self.kept.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def told(self) -> list[dict[str, Any]]:
        """The frames that were kept. No frame lies in two of the answer's chunks."""
        return [json.loads(found) for found in _frame.findall(b"".join(self.kept or ()))]

    def close(self) -> None:
        self._transport.abort()


class SlowReader:
    """Asks for a session's feed, then takes SLOW_BYTES each time it is told to, or nothing at all."""

    def __init__(self, url: str, session_id: str, *, reads: bool) -> None:
        self.reads = reads
        self.received = 0
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        self._socket.connect(address(url))
        self._socket.sendall(_request(session_id))
        self._socket.setblocking(False)

    def trickle(self) -> None:
        """What it takes in a second."""
        if self.reads:
            try:
                self.received += len(self._socket.recv(SLOW_BYTES))
            except BlockingIOError:
                return

    def close(self) -> None:
        self._socket.close()


def address(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def _request(session_id: str) -> bytes:
    return (
        b"GET /api/sessions/%b/stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        % session_id.encode()
    )
