"""Both ends of a service, with the times of what passes: the model that it asks, and connections that read from it."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.bench.clients.raw_clients import Caller
from tests.bench.servers.fake_model import Connection, FakeModel, Shape, words

DELAY_MS = 20.0  # before each token
WAIT_TIMEOUT_S = 20.0
FRAME = re.compile(rb"data: (\{.*?\})\n\n", re.DOTALL)
NODE = re.compile(rb'"node":"(http:[^"]+)"')
TOKEN_CHARS = len(words(1)[0])


class Model:
    """The fake model in this process; notes when it wrote each token, and when a reply was broken off."""

    def __init__(self, tokens: int) -> None:
        self.written_s: list[float] = []
        self.broken_s: asyncio.Future[float] | None = None
        self._speaks = FakeModel("midm", Shape(tokens, DELAY_MS))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The URL to ask it under."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Noted(self, self._speaks), "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


class _Noted(Connection):
    def __init__(self, notes: Model, model: FakeModel) -> None:
        super().__init__(model)
        self._notes = notes

    def _token(self) -> None:
        if self._stream is not None and self._sent < len(self._stream.tokens):
            self._notes.written_s.append(time.perf_counter())
        super()._token()

    def connection_lost(self, exc: Exception | None) -> None:
        broken = self._notes.broken_s
        if self._stream is not None and broken is not None and not broken.done():
            broken.set_result(time.perf_counter())


class Line(Caller):
    """A connection that asks, and from `follow` on reads a session's feed: `frames`, each with when it came."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[float, dict[str, Any]]] = []
        self._rest: bytes | None = None
        self._moved = asyncio.Event()

    async def json(self, method: str, path: str, body: object = None) -> Any:
        return json.loads(await self.ask(method, path, body))

    async def node(self) -> str:
        """The name of the process at the other end, as it signs events."""
        session_id = (await self.json("POST", "/api/sessions", {}))["session_id"]
        await self.ask("POST", "/api/chat", {"session_id": session_id, "message": "who are you"})
        trail = await self.ask("GET", f"/api/sessions/{session_id}/events")
        found = NODE.search(trail)
        if found is None:
            raise RuntimeError(f"no event names its node: {trail[-500:]!r}")
        return found[1].decode()

    def follow(self, session_id: str) -> None:
        self._rest = b""
        self._transport.write(b"GET /api/sessions/%b/stream HTTP/1.1\r\nHost: localhost\r\n\r\n" % session_id.encode())

    def data_received(self, data: bytes) -> None:
        if self._rest is None:
            super().data_received(data)
            return
        now_s, end = time.perf_counter(), 0
        self._rest += data
        for found in FRAME.finditer(self._rest):
            self.frames.append((now_s, json.loads(found[1])))
            end = found.end()
        self._rest = self._rest[end:]
        self._moved.set()

    async def first(self, wanted: Callable[[dict[str, Any]], bool]) -> float:
        """When the first such frame came. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            while True:
                for at_s, frame in self.frames:
                    if wanted(frame):
                        return at_s
                self._moved.clear()
                await self._moved.wait()

    def tokens_s(self) -> list[float]:
        """When each token of the one reply in `frames` had come."""
        came: list[float] = []
        told = 0
        for at_s, frame in self.frames:
            told += len(frame["content"]) if frame["type"] == "chunk" else 0
            came += [at_s] * (told // TOKEN_CHARS - len(came))
        return came
