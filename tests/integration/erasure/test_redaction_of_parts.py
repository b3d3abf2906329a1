"""Parts that are redacted: reasoning, calls, results and pictures, in contexts, in transcripts of clients, and on other
nodes.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from events.integrity.chain_verifier import verify
from tests.integration.erasure.test_redaction import GONE, SECRET, clean, fork, redact
from tests.support.http.completion_requests import complete, completion_body
from tests.support.http.feed_reader import following
from tests.support.http.service_requests import messages, sent
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import nodes
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import Running

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": f'"{SECRET}"'}}
DELTAS: tuple[dict[str, Any], ...] = (
    {"reasoning_content": SECRET},
    {"content": "Let me look."},
    {"tool_calls": [CALL]},
)
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + bytes(range(200))


async def test_a_turn_with_redacted_calls_and_results_is_still_one_for_the_model(
    service: Running, model: ModelServer, tmp_path: Path
) -> None:
    model.script(deltas=DELTAS, finish_reason="tool_calls")
    session_id = await service.session()
    reply = await service.chat(session_id, "How warm is it?", tools=[TOOL])
    for part in (0, 2):
        await redact(service, session_id, reply["message_id"], part=part)
    calling = (await messages(service.client, session_id))[-1]
    assert calling["calls"] == "open"
    assert calling["content"] == "Let me look."
    assert [(one["type"], one.get("kind")) for one in calling["parts"]] == [
        ("redacted", "reasoning"),
        ("text", None),
        ("redacted", "tool_call"),
    ]
    result = {"type": "tool_result", "call_id": "call_1", "content": SECRET}
    answer = await service.client.post(
        "/api/chat", json={"session_id": session_id, "role": "tool", "message": [result]}
    )
    assert answer.status_code == 200, answer.text
    _, assistant, tool = model.requests[-1].body["messages"]
    assert (assistant["tool_calls"][0]["id"], assistant["tool_calls"][0]["function"]) == (
        "call_1",
        {"name": "weather", "arguments": "{}"},
    )
    assert SECRET not in json.dumps(assistant)
    results = (await messages(service.client, session_id))[2]
    await redact(service, session_id, results["message_id"])
    last = (await messages(service.client, session_id))[3]
    await redact(service, session_id, last["message_id"])
    await service.chat(session_id, "And now?")
    tool = model.requests[-1].body["messages"][2]
    assert tool == {"role": "tool", "tool_call_id": "call_1", "content": "[redacted]"}
    await clean(service, tmp_path)


async def test_a_picture_goes_with_the_last_message_that_shows_it(service: Running, tmp_path: Path) -> None:
    stat = (await service.client.post("/api/media", content=PNG)).json()
    session_id = await service.session()
    picture = {"type": "media", "sha256": stat["sha256"]}
    for _ in range(2):
        body = {"session_id": session_id, "message": [{"type": "text", "text": "Look"}, picture]}
        assert (await service.client.post("/api/chat", json=body)).status_code == 200
    forked = await fork(service, session_id)
    first, _, second, _ = await messages(service.client, session_id)
    url = f"/api/media/{stat['sha256']}?session_id={session_id}"
    await redact(service, session_id, first["message_id"], part=1)
    assert (await service.client.get(url)).status_code == 200
    await redact(service, forked, second["message_id"], part=1)
    for one in (session_id, forked):
        gone = await service.client.get(f"/api/media/{stat['sha256']}?session_id={one}")
        assert gone.status_code == 404
    shown = (await messages(service.client, forked))[2]["parts"]
    assert shown == [{"type": "text", "text": "Look"}, {**GONE, "kind": "media"}]
    assert await service.services.log.media.stat([stat["sha256"]]) == {}
    await clean(service, tmp_path)


async def test_the_pictures_that_are_left_are_shown_in_forks_too(service: Running, tmp_path: Path) -> None:
    stats = [(await service.client.post("/api/media", content=PNG + bytes([one]))).json() for one in (1, 2)]
    session_id = await service.session()
    pictures = [{"type": "media", "sha256": one["sha256"]} for one in stats]
    body = {"session_id": session_id, "message": [*pictures, {"type": "text", "text": "Look"}]}
    assert (await service.client.post("/api/chat", json=body)).status_code == 200
    question, _ = await messages(service.client, session_id)
    early = await fork(service, session_id)
    await redact(service, session_id, question["message_id"], part=0)
    late = await fork(service, session_id)
    gone, kept = (one["sha256"] for one in stats)
    for one in (session_id, early, late):
        statuses = []
        for sha256 in (gone, kept):
            statuses.append((await service.client.get(f"/api/media/{sha256}?session_id={one}")).status_code)
        assert statuses == [404, 200], one
    await redact(service, early, question["message_id"])
    for one in (session_id, early, late):
        assert (await service.client.get(f"/api/media/{kept}?session_id={one}")).status_code == 404
    await clean(service, tmp_path)


async def test_a_transcript_with_a_redacted_message_does_not_match_and_begins_a_branch(
    service: Running, model: ModelServer
) -> None:
    headers = {"X-Conversation-Id": "trip"}

    async def ask(*texts: str) -> str:
        said = [
            {"role": "user" if number % 2 == 0 else "assistant", "content": text} for number, text in enumerate(texts)
        ]
        answer = await complete(service, json=completion_body(messages=said), headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-session-id"])

    session_id = await ask("one")
    await ask("one", "You said: one", "two")
    _, reply, _, _ = await messages(service.client, session_id)
    await redact(service, session_id, reply["message_id"])
    for text in ("[redacted]", ""):
        assert await ask("one", text, "three") == session_id
        assert len(await messages(service.client, session_id)) <= 4, "another branch, from the first question on"
    assert await ask("one", "You said: one", "four") == session_id
    assert sent(model) == ["one", "You said: one", "four"]
    branch = await messages(service.client, session_id)
    assert [one["content"] for one in branch] == ["one", "You said: one", "four", "You said: four"]
    assert branch[1]["message_id"] != reply["message_id"]


async def test_redacted_reasoning_leaves_a_transcript_what_it_was(service: Running, model: ModelServer) -> None:
    headers = {"X-Conversation-Id": "thinking"}
    model.script(deltas=({"reasoning_content": SECRET}, {"content": "fine"}))
    answer = await complete(
        service, json=completion_body(messages=[{"role": "user", "content": "how?"}]), headers=headers
    )
    session_id = answer.headers["x-session-id"]
    reply = (await messages(service.client, session_id))[-1]
    await redact(service, session_id, reply["message_id"], part=0)
    said = [("user", "how?"), ("assistant", "fine"), ("user", "and now?")]
    body = completion_body(messages=[{"role": role, "content": text} for role, text in said])
    assert (await complete(service, json=body, headers=headers)).headers["x-session-id"] == session_id
    assert (await messages(service.client, session_id))[1]["message_id"] == reply["message_id"]


@pytest.fixture
async def pair(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> AsyncIterator[list[Running]]:
    async with nodes(tmp_path, await postgres.schema(), model.url) as running:
        yield running


@pytest.mark.real_part
async def test_no_node_keeps_what_another_one_has_redacted(pair: list[Running], model: ModelServer) -> None:
    first, second = pair
    session_id = await first.session()
    await second.chat(session_id, SECRET)  # this node's actor and caches have the text
    question, reply = await messages(second.client, session_id)
    forked = await fork(second, session_id)
    await messages(second.client, forked)
    async with following(second.client, session_id) as feed:
        for one in (question, reply):
            await redact(first, session_id, one["message_id"])
            frame = (await feed.until("redacted"))[-1]
            assert frame["message_id"] == one["message_id"]
    for node in pair:
        for shown in (session_id, forked):
            assert [message["parts"] for message in await messages(node.client, shown)] == [[GONE]] * 2
    for shown in (session_id, forked):
        await second.chat(shown, "and now?")
        assert sent(model) == ["[redacted]", "[redacted]", "and now?"]
    assert SECRET not in str(await first.services.log.rows(limit=1000))
    async with asyncio.timeout(10):
        while first.services.log.erasure_pending:
            await asyncio.sleep(0.01)
    assert (await verify(second.services.log))[1] is None
