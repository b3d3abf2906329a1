"""A reader of a session's feed over a real socket, frame by frame."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx

Frame = dict[str, Any]
WAIT_TIMEOUT_S = 30.0


class FeedReader:
    """The frames of an open stream. Each has its id as `cursor` and, where it has one, its `retry` line."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._frames = self._read()

    async def next(self) -> Frame:
        """The next frame; [DONE] is {"type": "done"}, the end of the stream {"type": "end"}."""
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            return await anext(self._frames, {"type": "end"})

    async def until(self, kind: str) -> list[Frame]:
        """All frames up to the first of this type, that one included."""
        seen: list[Frame] = []
        while not seen or seen[-1]["type"] not in (kind, "end"):
            seen.append(await self.next())
        assert seen[-1]["type"] == kind, f"the stream ended before {kind}: {seen}"
        return seen

    async def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long. The reader is of no use afterwards."""
        try:
            async with asyncio.timeout(seconds):
                await anext(self._frames)
        except TimeoutError:
            return True
        return False

    async def _read(self) -> AsyncIterator[Frame]:
        text = ""
        async for piece in self.answer.aiter_text():
            *blocks, text = (text + piece).split("\n\n")
            for block in blocks:
                lines = dict(re.findall(r"^(id|data|retry): (.*)$", block, re.MULTILINE))
                if lines.get("data") == "[DONE]":
                    yield {"type": "done"}
                elif "data" in lines:
                    yield {**json.loads(lines["data"]), "cursor": lines["id"], "retry": lines.get("retry")}
                else:
                    assert "retry" not in lines, "a block without data is an empty event to some readers"


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, session_id: str, after: object = None, **headers: str
) -> AsyncIterator[FeedReader]:
    """An open feed; `after` a cursor, if any."""
    params = {} if after is None else {"after": str(after)}
    async with client.stream("GET", f"/api/sessions/{session_id}/stream", params=params, headers=headers) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        yield FeedReader(answer)


@asynccontextmanager
async def following_changes(
    client: httpx.AsyncClient, after: object = None, **headers: str
) -> AsyncIterator[FeedReader]:
    """An open stream of changes in lists of sessions, after its first frame."""
    params = {} if after is None else {"after": str(after)}
    async with client.stream("GET", "/api/sessions/changes", params=params, headers=headers) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        feed = FeedReader(answer)
        assert (await feed.next())["type"] == "ready"
        yield feed


def text_of(frames: Iterable[Frame], message_id: str | None = None) -> str:
    """The text that the chunks bring, of one reply or of all."""
    chunks = [frame for frame in frames if frame["type"] == "chunk"]
    return "".join(one["content"] for one in chunks if message_id in (None, one["message_id"]))


def kinds_of(frames: Iterable[Frame]) -> list[str]:
    """The types, chunks in a row as one: how many there are depends on the moment."""
    kinds = [frame["type"] for frame in frames]
    return [kind for at, kind in enumerate(kinds) if kind != "chunk" or not at or kinds[at - 1] != "chunk"]
