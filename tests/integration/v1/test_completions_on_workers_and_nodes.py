"""Requests to /v1 may come to any worker or node: a name means the same conversation everywhere."""

import asyncio
import uuid
from pathlib import Path

import httpx
import pytest

from tests.support.http.completion_requests import MODEL, chunks_of, complete, completion_body, joined
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.worker_processes import two_workers

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_first_requests_of_one_name_at_two_workers_make_one_conversation(
    tmp_path: Path, model: ModelServer
) -> None:
    limits = httpx.Limits(max_keepalive_connections=0)  # each request may come to either worker
    async with (
        two_workers(tmp_path, model) as started,
        httpx.AsyncClient(base_url=started.url, timeout=30, limits=limits) as client,
    ):
        headers = {"X-Conversation-Id": str(uuid.uuid4())}
        bodies = [completion_body(f"m{number}", stream=number % 2 == 0) for number in range(8)]
        posts = [client.post("/v1/chat/completions", json=body, headers=headers) for body in bodies]
        answers = await asyncio.gather(*posts)
        assert {answer.status_code for answer in answers} == {200}
        (session_id,) = {answer.headers["x-session-id"] for answer in answers}
        for number, answer in enumerate(answers):
            is_stream = number % 2 == 0
            message = joined(chunks_of(answer.text)) if is_stream else answer.json()["choices"][0]["message"]
            assert message["content"] == f"You said: m{number}"
        branches = (await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"][0]["siblings"]
        assert len(branches) == 8


@pytest.mark.real_part
async def test_a_repetition_at_another_node_gets_the_reply_that_is_being_written(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    model.script(pieces=("one ", "two"), hold_after=1)
    async with nodes(tmp_path, await postgres.schema(), model.url) as (first, second):
        headers = {"X-Conversation-Id": "chat", "Idempotency-Key": "k"}
        asking = [asyncio.create_task(complete(first, headers=headers, stream=True))]
        await model.wait_requests(1)
        asking.append(asyncio.create_task(complete(second, headers=headers, stream=True)))
        await asyncio.sleep(0.2)
        model.release()
        answers = [await one for one in asking]
        chunks = [chunks_of(answer.text) for answer in answers]
        assert [joined(one)["content"] for one in chunks] == ["one two"] * 2
        assert chunks[0][0]["id"] == chunks[1][0]["id"]
        assert len(model.requests) == 1
        messages = [
            *completion_body()["messages"],
            {"role": "assistant", "content": "one two"},
            {"role": "user", "content": "Go on"},
        ]
        answer = await complete(
            second, json={"model": MODEL, "messages": messages}, headers={"X-Conversation-Id": "chat"}
        )
        assert answer.headers["x-session-id"] == answers[0].headers["x-session-id"]
        assert len((await first.history(answer.headers["x-session-id"]))["messages"]) == 4
