"""Readers resume in the middle of reasoning and of a tool call after the service was killed."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.stream_reader import StreamReader, reading
from tests.support.model.model_server import ModelServer
from tests.support.service import program

THOUGHTS = ("날씨? ", "👩‍👩 ", "Seoul.")
ARGUMENTS = ('{"city"', ":", '"Seoul"}')
DELTAS: tuple[dict[str, Any], ...] = (
    *({"reasoning_content": thought} for thought in THOUGHTS),
    {"content": "Let me look."},
    {
        "tool_calls": [
            {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS[0]}}
        ]
    },
    *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in ARGUMENTS[1:]),
)
CHECKPOINT = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.1"}


def flat(frames: list[dict[str, Any]]) -> list[str]:
    """The text of each part."""
    texts: dict[int, str] = {}
    for frame in frames:
        if frame["type"] in ("chunk", "reasoning", "tool_call"):
            part = frame.get("part", 0)
            texts[part] = texts.get(part, "") + str(frame.get("content", frame.get("arguments")))
    assert sorted(texts) == list(range(len(texts)))
    return [texts[part] for part in sorted(texts)]


async def say(model: ModelServer, reader: StreamReader, steps: int) -> None:
    """Let the model send so many more deltas, each of which the reader gets."""
    for _ in range(steps):
        seen = len(flat(reader.frames)), sum(map(len, flat(reader.frames)))
        model.step()
        while (len(flat(reader.frames)), sum(map(len, flat(reader.frames)))) == seen:
            await reader.block()


async def recorded_offset(client: httpx.AsyncClient, session_id: str) -> int:
    history = (await client.get(f"/api/sessions/{session_id}/messages")).json()
    return int(history["cursor"].partition(":")[2])


@pytest.mark.parametrize("deltas", [2, 6], ids=["reasoning", "tool_call"])
async def test_a_reader_resumes_where_it_was(tmp_path: Path, model: ModelServer, deltas: int) -> None:
    model.script(
        deltas=[*DELTAS, DELTAS[-1]], stepwise=True
    )  # the last one never comes: the reply does not end by itself
    async with (
        program(tmp_path, model.url, **CHECKPOINT) as first,
        httpx.AsyncClient(base_url=first.url, timeout=30) as client,
    ):
        session_id = (await client.post("/api/sessions")).json()["session_id"]
        url = f"/api/sessions/{session_id}/stream"
        body = {"session_id": session_id, "message": "hi"}
        async with reading(client, url, after="0:0") as reader, client.stream("POST", "/api/chat/stream", json=body):
            await say(model, reader, deltas)
            async with asyncio.timeout(20):
                while await recorded_offset(client, session_id) < sum(map(len, flat(reader.frames))):
                    await asyncio.sleep(0.02)
            recorded = flat(reader.frames)
            await say(model, reader, 1)  # what comes now is seen, and may be lost
            await first.kill()
            await reader.to_the_end()
    seen = [frame for frame in reader.frames if frame.get("cursor")]
    model.script()
    async with program(tmp_path, model.url) as second, httpx.AsyncClient(base_url=second.url, timeout=30) as client:
        for number, frame in enumerate(seen):
            if frame["type"] not in ("start", "chunk", "reasoning", "tool_call"):
                continue
            async with reading(client, url, after=frame["cursor"]) as again:
                error = await again.until("error")
            texts = flat(seen[: number + 1] + again.frames)
            assert (error["status"], error["length"]) == ("interrupted", len("Let me look.") if deltas > 3 else 0)
            kept = [text[:length] for text, length in zip(texts, error["part_lengths"], strict=False)]
            assert all(text.startswith(known) for text, known in zip(kept, recorded, strict=True))
