"""The whole program with the small real model that comes along: talk, stop, go on, and leave nothing behind."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.command_processes import children_of, is_alive
from tests.support.programs.external_programs import needs_model
from tests.support.service import Program, frames, program

EMBEDDED = {"CHATBOT_LLM_PROVIDER": "auto", "CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.1"}
NO_SERVER = ""


async def all_gone(pids: list[int]) -> None:
    async with asyncio.timeout(8):
        while any(map(is_alive, pids)):
            await asyncio.sleep(0.02)


def client_of(running: Program) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.url, timeout=60)


async def chat(client: httpx.AsyncClient, session_id: str, message: str) -> dict[str, Any]:
    body = {"session_id": session_id, "message": message, "max_new_tokens": 16, "temperature": 0}
    answer = await client.post("/api/chat", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def messages_of(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    return list((await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"])


@needs_model
async def test_a_conversation_with_the_real_model_streams_survives_a_restart_and_keeps_its_context(
    tmp_path: Path,
) -> None:
    async with program(tmp_path, NO_SERVER, **EMBEDDED) as first, client_of(first) as client:
        session_id = (await client.post("/api/sessions")).json()["session_id"]
        one = await chat(client, session_id, "My name is Mina. Say hello.")
        assert one["content"].strip()
        assert one["model"] == "SmolLM2-135M-Instruct"
        assert one["token_usage"]["total_tokens"] > one["token_usage"]["completion_tokens"] > 0
        body = {"session_id": session_id, "message": "Count from one to twenty.", "max_new_tokens": 40}
        body["temperature"] = 0
        came, seen = [], ""
        async with client.stream("POST", "/api/chat/stream", json=body) as answer:
            async for piece in answer.aiter_text():
                came.append(time.monotonic())
                seen += piece
        start, *chunks, complete, done = frames(seen)
        assert (start["type"], complete["type"], done["type"]) == ("start", "complete", "done")
        assert len(chunks) >= 5
        assert "".join(chunk["content"] for chunk in chunks) == complete["full_response"]
        assert len({round(moment, 2) for moment in came}) >= 5, "the text came at once, not piece by piece"
        before = await messages_of(client, session_id)
        assert len(before) == 4
        children = children_of(first.process.pid)
        assert children, "the model runs in a process of its own"
        first.process.send_signal(signal.SIGINT)
        assert await first.ended() == 0
        await all_gone(children)
    async with program(tmp_path, NO_SERVER, **EMBEDDED) as second, client_of(second) as client:
        assert await messages_of(client, session_id) == before
        two = await chat(client, session_id, "What is my name?")
        assert two["token_usage"]["prompt_tokens"] > complete["token_usage"]["prompt_tokens"]
        assert complete["token_usage"]["prompt_tokens"] > one["token_usage"]["prompt_tokens"]
        assert await second.stop() == 0


@needs_model
async def test_a_kill_during_a_reply_leaves_no_process_behind_and_the_reply_ends_as_interrupted(tmp_path: Path) -> None:
    async with program(tmp_path, NO_SERVER, **EMBEDDED) as first, client_of(first) as client:
        session_id = (await client.post("/api/sessions")).json()["session_id"]
        body = {"session_id": session_id, "message": "Tell me a very long story.", "max_new_tokens": 1000}
        body["temperature"] = 0  # a story that is long each time
        seen, children = "", list[int]()
        try:
            async with client.stream("POST", "/api/chat/stream", json=body) as answer:
                async for piece in answer.aiter_text():
                    seen += piece
                    if seen.count('"chunk"') >= 15 and not children:
                        children = children_of(first.process.pid)
                        await first.kill()
        except httpx.TransportError:
            pass
        assert children
        await all_gone(children)
    told = "".join(frame["content"] for frame in frames(seen) if frame["type"] == "chunk")
    assert '"complete"' not in seen
    async with program(tmp_path, NO_SERVER, **EMBEDDED) as second, client_of(second) as client:
        question, reply = await messages_of(client, session_id)
        assert (question["status"], reply["status"]) == ("complete", "interrupted")
        assert reply["content"]
        assert told.startswith(reply["content"]) or reply["content"].startswith(told)
