"""Clients that close their sending side once they have asked (`nc -N`, some probes) get their answer."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from chatbot.api.connections import BoundedProtocol, Connections

PING_S = 1.0  # between pings to a reader that may have left: only a write tells that


class HalfClosableProtocol(BoundedProtocol):
    """A connection whose client may close its sending side: what it has asked in full is answered first.

    A client that has left looks the same until something is written to it. `on_half_close` is called, so that a stream
    can write; where `leaving_cancels`, nothing is written for long, and the end of what the client sends is taken for
    its leaving. Both are of the request at hand.
    """

    __slots__ = ("_answered", "_body", "is_half_closed", "leaving_cancels", "on_half_close")

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, connections, **options)
        self.is_half_closed = False
        self.leaving_cancels = False
        self.on_half_close: Callable[[], None] | None = None
        self._answered = 0
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
            self._answered += 1
            self.leaving_cancels, self.on_half_close = False, None
            if self.is_half_closed and not self._owes_answers:
                self.close()

    @property
    def _owes_answers(self) -> bool:
        return self._request_count > self._answered


def cancel_when_client_leaves(request: web.Request) -> None:
    """For a request that works for long without writing: take the end of what its client sends for its leaving."""
    if isinstance(request.protocol, HalfClosableProtocol):
        request.protocol.leaving_cancels = True
