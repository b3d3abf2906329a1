"""A cancel reaches the model server: its connection is closed, its place is free, and nothing more is heard of it."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.http.feed_reader import following, text_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, program, serving

ROUNDS = 20
ENDLESS = ("on and ", "on, ") * 20_000


@pytest.fixture(params=["openai", "midm"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def narrow(tmp_path: Path, model: ModelServer, protocol: str) -> AsyncIterator[Running]:
    """Room for one reply at a time, and for none that waits."""
    settings = {"CHATBOT_LLM_CONCURRENT_MAX": "1", "CHATBOT_LLM_QUEUE_MAX": "0"}
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER=protocol, **settings) as running:
        yield running


async def post_and_leave(client: httpx.AsyncClient, session_id: str) -> None:
    """Have a reply begun, read a little of it, and hang up."""
    body = {"session_id": session_id, "message": "go"}
    async with client.stream("POST", "/api/chat/stream", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if '"type":"chunk"' in line:
                return


async def cancel(url: httpx.URL, session_id: str) -> tuple[int, str | None]:
    """From a connection of its own."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as other:
        answer = await other.post(f"/api/sessions/{session_id}/cancel")
        return answer.status_code, answer.json()["reply_id"]


async def test_the_model_server_sees_its_connection_close_at_a_cancel(
    tmp_path: Path, model: ModelServer, protocol: str
) -> None:
    """With room for one reply: each round would be refused if the one before had kept its place."""
    model.script(times=None, pieces=ENDLESS, delay_s=0.002)
    settings = {"CHATBOT_LLM_PROVIDER": protocol, "CHATBOT_LLM_CONCURRENT_MAX": "1", "CHATBOT_LLM_QUEUE_MAX": "0"}
    closed_ms: list[float] = []
    answered_ms: list[float] = []
    async with program(tmp_path, model.url, **settings) as server, httpx.AsyncClient(base_url=server.url) as client:
        session_id = (await client.post("/api/sessions")).json()["session_id"]
        for number in range(ROUNDS):
            await post_and_leave(client, session_id)
            asked_at = time.monotonic()
            answer = await client.post(f"/api/sessions/{session_id}/cancel")
            answered_ms.append((time.monotonic() - asked_at) * 1000)
            assert answer.status_code == 202
            await model.wait_aborted(number + 1)
            closed_at = model.requests[-1].aborted_at
            assert closed_at is not None
            closed_ms.append((closed_at - asked_at) * 1000)
    assert all(request.pieces_sent < len(ENDLESS) for request in model.requests)
    assert len(model.requests) == ROUNDS
    print(
        f"{protocol}: the model server sees the connection close {statistics.median(closed_ms):.1f} ms after the "
        f"cancel (median of {ROUNDS}, longest {max(closed_ms):.1f}), which is answered after "
        f"{statistics.median(answered_ms):.1f} ms (longest {max(answered_ms):.1f})"
    )


@pytest.mark.parametrize("silent", [False, True])
async def test_its_place_is_free_when_a_cancel_is_answered(narrow: Running, model: ModelServer, silent: bool) -> None:
    """Also when the model had not said a word yet."""
    model.script(pieces=ENDLESS, delay_s=0.002, first_delay_s=60 if silent else 0)
    session_id = await narrow.session()
    chatting = asyncio.create_task(narrow.chat(session_id, "go"))
    await model.wait_requests()
    assert narrow.services.limiter.running == 1
    status, reply_id = await cancel(narrow.client.base_url, session_id)
    assert (narrow.services.limiter.running, narrow.services.limiter.waiting) == (0, 0)
    answer = await chatting
    assert (status, reply_id, answer["status"]) == (202, answer["message_id"], "cancelled")
    assert (await narrow.chat(await narrow.session(), "next"))["content"] == "You said: next"
    assert len(model.aborted) == 1


async def test_no_character_comes_after_a_cancelled_end(narrow: Running, model: ModelServer) -> None:
    model.script(pieces=ENDLESS, delay_s=0.001)
    session_id = await narrow.session()
    async with following(narrow.client, session_id, 0) as feed:
        await post_and_leave(narrow.client, session_id)
        seen = await feed.until("chunk")
        _, reply_id = await cancel(narrow.client.base_url, session_id)
        seen += await feed.until("error")
        await narrow.chat(session_id, "next")
        after = await feed.until("complete")
    end = seen[-1]
    assert (end["status"], end["message_id"], end["length"]) == ("cancelled", reply_id, len(text_of(seen)))
    assert reply_id not in {frame.get("message_id") for frame in after}
    kept = next(one for one in (await narrow.history(session_id))["messages"] if one["message_id"] == reply_id)
    assert (kept["status"], kept["content"]) == ("cancelled", text_of(seen))


async def test_a_cancel_works_when_every_reader_has_left(narrow: Running, model: ModelServer) -> None:
    model.script(pieces=ENDLESS, delay_s=0.001)
    session_id = await narrow.session()
    async with following(narrow.client, session_id, 0) as feed:
        await post_and_leave(narrow.client, session_id)
        await feed.until("chunk")
    assert not model.aborted  # a reader that leaves stops nothing
    status, reply_id = await cancel(narrow.client.base_url, session_id)
    await model.wait_aborted()
    newest = (await narrow.history(session_id))["messages"][-1]
    assert status == 202
    assert (newest["message_id"], newest["status"]) == (reply_id, "cancelled")
    assert "".join(ENDLESS).startswith(newest["content"])
    assert newest["content"]


async def test_cancelling_what_has_been_cancelled_changes_nothing(narrow: Running, model: ModelServer) -> None:
    """Whether the cancels come one after the other or all at once."""
    model.script(pieces=ENDLESS, delay_s=0.001)
    session_id = await narrow.session()
    await post_and_leave(narrow.client, session_id)
    answers = await asyncio.gather(*(cancel(narrow.client.base_url, session_id) for _ in range(5)))
    assert sorted(status for status, _ in answers) == [200, 200, 200, 200, 202]
    before = await narrow.history(session_id)
    assert await cancel(narrow.client.base_url, session_id) == (200, None)
    assert await narrow.history(session_id) == before
    await model.wait_aborted()
    assert len(model.aborted) == len(model.requests) == 1
    async with following(narrow.client, session_id, 0) as feed:
        await narrow.chat(session_id, "next")
        seen = await feed.until("complete")
    assert [frame["type"] for frame in seen].count("error") == 1
