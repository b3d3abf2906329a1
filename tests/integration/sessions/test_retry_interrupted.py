"""`sessions.interrupted_retries_max`: interrupted replies are generated again, under the same id."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.service_requests import (
    PostRequest,
    event_counts,
    forget_projections,
    messages,
    recorded,
    wait_for_last_message,
)
from tests.support.model.model_server import ModelServer
from tests.support.service import Program, frames, program

SETTINGS = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05", "CHATBOT_SERVER_DRAIN_GRACE_S": "0.1"}


async def post(client: httpx.AsyncClient, session_id: str, message: str) -> httpx.Response:
    body = {"session_id": session_id, "message": message}
    return await client.post("/api/chat", json=body, headers={"Idempotency-Key": message})


async def cut_off(
    running: Program, client: httpx.AsyncClient, model: ModelServer, how: str, waiting: int = 1
) -> tuple[str, list[dict[str, Any]]]:
    """A session whose reply was cut off under way, and messages that waited; the history as it was then."""
    model.script(pieces=("kept ", "text ", "lost"), hold_after=2)
    session_id = (await client.post("/api/sessions")).json()["session_id"]
    posting = [asyncio.create_task(post(client, session_id, "one"))]
    await wait_for_last_message(client, session_id, content="kept text ")
    for number in range(waiting):
        posting.append(asyncio.create_task(post(client, session_id, ("two", "three", "four")[number])))
        while len(await messages(client, session_id)) < 4 + 2 * number:
            await asyncio.sleep(0.01)
    before = await messages(client, session_id)
    await end(running, how)
    for answer in await asyncio.gather(*posting, return_exceptions=True):
        assert isinstance(answer, httpx.TransportError) or answer.status_code == 503  # type: ignore[union-attr]
    return session_id, before


async def end(running: Program, how: str) -> None:
    if how == "kill -9":
        await running.kill()
    else:
        assert await running.stop() == 0


def ids(history: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["message_id"], message["parent_id"]) for message in history]


def asked(model: ModelServer) -> list[str]:
    return [request.body["messages"][-1]["content"] for request in model.requests]


@pytest.mark.parametrize("without_projections", [False, True])
@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
async def test_a_reply_that_was_cut_off_starts_anew_after_the_restart_before_those_that_waited(
    tmp_path: Path, model: ModelServer, how: str, without_projections: bool
) -> None:
    settings = {**SETTINGS, "CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "1"}
    async with program(tmp_path, model.url, **settings) as first, httpx.AsyncClient(base_url=first.url) as client:
        session_id, before = await cut_off(first, client, model, how, waiting=2)
    if without_projections:
        forget_projections(tmp_path)
    async with program(tmp_path, model.url, **settings) as second, httpx.AsyncClient(base_url=second.url) as client:
        await wait_for_last_message(client, session_id, content="You said: three", status="complete")
        history = await messages(client, session_id)
        assert ids(history) == ids(before)
        assert [(message["status"], message["content"]) for message in history[1::2]] == [
            ("complete", "You said: one"), ("complete", "You said: two"), ("complete", "You said: three"),
        ]  # fmt: skip
        view = (await client.get(f"/api/sessions/{session_id}")).json()
        assert (view["message_count"], view["status"]) == (6, "active")
        usage = (await client.get("/api/usage")).json()["usage"]
        assert sum(row["replies"] for row in usage) == 3
        again = [await post(client, session_id, message) for message in ("one", "two", "three")]
        assert [one.json()["message_id"] for one in again] == [message["message_id"] for message in history[1::2]]
        await second.stop()
    assert asked(model) == ["one", "one", "two", "three"]
    contexts = [[said["content"] for said in request.body["messages"]] for request in model.requests[1:]]
    then = ["one", "You said: one", "two", "You said: two", "three"]
    assert contexts == [then[:1], then[:3], then]
    counts = event_counts(tmp_path)
    assert counts["reply_interrupted"] == (1 if how == "kill -9" else 3)  # one end of each attempt
    assert counts["reply_requested"] == counts["reply_interrupted"]
    attempts = [data.get("attempt", 1) for name, data in recorded(tmp_path) if name == "reply_started"]
    assert attempts == ([1, 2, 1, 1] if how == "kill -9" else [1, 2, 2, 2])
    (partial, *_) = [data for name, data in recorded(tmp_path) if name == "reply_interrupted" and data["content"]]
    assert partial["content"] == "kept text "


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
async def test_without_the_setting_everything_is_closed_and_nothing_asked_again(
    tmp_path: Path, model: ModelServer, how: str
) -> None:
    async with program(tmp_path, model.url, **SETTINGS) as first, httpx.AsyncClient(base_url=first.url) as client:
        session_id, before = await cut_off(first, client, model, how)
    async with program(tmp_path, model.url, **SETTINGS) as second, httpx.AsyncClient(base_url=second.url) as client:
        history = await messages(client, session_id)
        assert ids(history) == ids(before)
        assert [(m["status"], m["content"]) for m in history[1::2]] == [
            ("interrupted", "kept text "), ("interrupted", ""),
        ]  # fmt: skip
        assert (await post(client, session_id, "three")).status_code == 200
    assert asked(model) == ["one", "three"]
    assert event_counts(tmp_path)["reply_requested"] == 0


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
async def test_it_is_begun_anew_no_more_often_than_is_set(tmp_path: Path, model: ModelServer, how: str) -> None:
    settings = {**SETTINGS, "CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "2"}
    async with program(tmp_path, model.url, **settings) as first, httpx.AsyncClient(base_url=first.url) as client:
        session_id, before = await cut_off(first, client, model, how, waiting=0)
    for attempt in (2, 3):
        model.script(pieces=(f"attempt {attempt}", " lost"), hold_after=1)
        async with program(tmp_path, model.url, **settings) as next_one:
            async with httpx.AsyncClient(base_url=next_one.url) as client:
                await wait_for_last_message(client, session_id, status="streaming", content=f"attempt {attempt}")
            await end(next_one, how)
    async with program(tmp_path, model.url, **settings) as last, httpx.AsyncClient(base_url=last.url) as client:
        history = await messages(client, session_id)
        assert (history[-1]["status"], history[-1]["content"]) == ("interrupted", "attempt 3")
        assert ids(history) == ids(before)
        told = await post(client, session_id, "one")
        assert (told.status_code, told.json()["partial"]) == (503, "attempt 3")
        assert (await post(client, session_id, "two")).status_code == 200
        await last.stop()
    assert asked(model) == ["one", "one", "one", "two"]
    ended = [data["content"] for name, data in recorded(tmp_path) if name == "reply_interrupted"]
    assert ended == ["kept text ", "attempt 2", "attempt 3"]


async def test_a_repeated_key_gets_the_reply_that_is_generated_again(tmp_path: Path, model: ModelServer) -> None:
    settings = {**SETTINGS, "CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "1"}
    async with program(tmp_path, model.url, **settings) as first, httpx.AsyncClient(base_url=first.url) as client:
        session_id, before = await cut_off(first, client, model, "kill -9", waiting=0)
    model.script(pieces=("another ", "text"), hold_after=1)
    async with program(tmp_path, model.url, **settings) as second, httpx.AsyncClient(base_url=second.url) as client:
        await wait_for_last_message(client, session_id, content="another ")
        body = {"session_id": session_id, "message": "one"}
        streaming = PostRequest("/api/chat/stream", body, {"Idempotency-Key": "one"})
        joined = [asyncio.create_task(post(client, session_id, "one")), asyncio.create_task(streaming.send(client))]
        await asyncio.sleep(0.1)
        model.release()
        whole, streamed = [await one for one in joined]
        assert (whole.json()["content"], whole.json()["message_id"]) == ("another text", before[1]["message_id"])
        start, *_, complete, _ = frames(streamed.text)
        assert (start["message_id"], complete["full_response"]) == (before[1]["message_id"], "another text")
        assert (await streaming.send(client)).text.count("another text")
    assert len(model.requests) == 2


async def test_a_cancelled_reply_stays_cancelled_after_a_restart(tmp_path: Path, model: ModelServer) -> None:
    settings = {**SETTINGS, "CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "3"}
    async with program(tmp_path, model.url, **settings) as first, httpx.AsyncClient(base_url=first.url) as client:
        session_id, _ = await cut_off(first, client, model, "kill -9", waiting=0)
    model.script(pieces=("a ", "b"), hold_after=1)
    async with program(tmp_path, model.url, **settings) as second, httpx.AsyncClient(base_url=second.url) as client:
        await wait_for_last_message(client, session_id, content="a ")
        assert (await client.post(f"/api/sessions/{session_id}/cancel")).status_code == 202
        await second.kill()
    async with program(tmp_path, model.url, **settings) as third, httpx.AsyncClient(base_url=third.url) as client:
        last = (await messages(client, session_id))[-1]
        assert (last["status"], last["content"]) == ("cancelled", "a ")
    assert len(model.requests) == 2
