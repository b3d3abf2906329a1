"""A reader of an event stream that sees each frame when it comes, and remembers its place as EventSource does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.service import frames

FRAME_TIMEOUT_S = 10.0


class StreamReader:
    """One open stream. `frames` holds what was read of it; `pings` counts."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.frames: list[dict[str, Any]] = []
        self.pings = 0
        self._unread: list[str] = []
        self._rest = ""
        self._pieces = answer.aiter_text()

    @property
    def cursor(self) -> str:
        """The id of the last frame that had one."""
        return str([frame["cursor"] for frame in self.frames if frame.get("cursor")][-1])

    async def block(self) -> str:
        """The next frame or ping as it came. Raises StopAsyncIteration at the end, httpx.TransportError when cut."""
        while not self._unread:
            async with asyncio.timeout(FRAME_TIMEOUT_S):
                self._rest += await anext(self._pieces)
            *self._unread, self._rest = self._rest.split("\n\n")
        block = self._unread.pop(0)
        self.pings += block.startswith(": ping")
        self.frames.extend(frames(block))
        return block

    async def until(self, wanted: str) -> dict[str, Any]:
        """The next frame of that type, once it has come."""
        seen = len(self.frames)
        while True:
            await self.block()
            if len(self.frames) > seen and self.frames[-1]["type"] == wanted:
                return self.frames[-1]

    async def text(self, wanted: str) -> None:
        """Wait until the chunks read so far are `wanted`: no less, no more."""
        while (seen := text_of(self.frames)) != wanted:
            assert wanted.startswith(seen), (seen, wanted)
            await self.block()

    async def to_the_end(self) -> None:
        """Read until it is over, in whatever way."""
        try:
            while True:
                await self.block()
        except (StopAsyncIteration, httpx.TransportError):
            return


def text_of(seen: list[dict[str, Any]]) -> str:
    """What the chunks add up to."""
    return "".join(frame["content"] for frame in seen if frame["type"] == "chunk")


@asynccontextmanager
async def reading(
    client: httpx.AsyncClient, path: str, body: Any = None, after: str = "", key: str = ""
) -> AsyncIterator[StreamReader]:
    """POST with a body, GET without, `after` a cursor, with an Idempotency-Key; as a browser it takes gzip."""
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
    if key:
        headers["Idempotency-Key"] = key
    if after:
        headers["Last-Event-ID"] = after
    method = "GET" if body is None else "POST"
    async with client.stream(method, path, json=body, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        yield StreamReader(answer)
