"""What goes wrong though all nodes live: an answer of the database that never came, a cancel that comes too late."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from chatbot.api.draining import retire
from chatbot.nodes.name import address_of
from events.catalogue import Event
from events.errors import OutcomeUnknown
from events.record import Metadata, RecordedEvent
from tests.support.cluster import SECRET, nodes
from tests.support.model_server import ModelServer
from tests.support.postgres import PostgresServer
from tests.support.service import Running, frames

pytestmark = pytest.mark.real_part


@pytest.fixture
async def pair(tmp_path: Path, model: ModelServer, postgres: PostgresServer) -> AsyncIterator[list[Running]]:
    async with nodes(tmp_path, await postgres.schema(), model.url) as running:
        yield running


def forget_an_answer(node: Running, monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """The next append of `node` that has a `wanted` event is recorded, but nobody hears so."""
    log = node.services.log
    append = log.append

    async def cut(
        stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        recorded = await append(stream_id, expected_version, events, metadata)
        if any(one.type == wanted for one in recorded):
            monkeypatch.setattr(log, "append", append)
            raise OutcomeUnknown("the connection was lost; whether this was recorded is unknown")
        return recorded

    monkeypatch.setattr(log, "append", cut)


async def settled(node: Running, session_id: str) -> list[Any]:
    """The messages, once no reply is owed any more: role and status."""
    async with asyncio.timeout(10):
        while (await node.client.get(f"/api/sessions/{session_id}")).json()["status"] != "active":
            await asyncio.sleep(0.05)
    return [(one["role"], one["status"]) for one in (await node.history(session_id))["messages"]]


async def test_a_reply_whose_start_was_recorded_unknown_to_its_node_ends_and_the_next_is_answered(
    pair: list[Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    session_id = await first.session()
    forget_an_answer(first, monkeypatch, "reply_started")
    keyed = {"Idempotency-Key": "sure"}
    body = {"session_id": session_id, "message": "lost"}
    answer = await first.client.post("/api/chat", json=body, headers=keyed)
    assert answer.json()["type"] == "/problems/outcome-unknown"
    async with asyncio.timeout(10):
        again = await first.client.post("/api/chat", json=body, headers=keyed)
    assert again.status_code == 503, again.text
    assert await settled(second, session_id) == [("user", "complete"), ("assistant", "interrupted")]
    assert (await first.chat(session_id, "next"))["content"] == "You said: next"


async def test_a_reply_that_waited_and_whose_start_is_unknown_to_its_node_ends_too(
    pair: list[Running], model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    session_id = await first.session()
    model.script(pieces=("a",), hold_after=1)
    running = asyncio.create_task(first.chat(session_id, "runs"))
    await model.wait_requests()
    waiting = asyncio.create_task(first.client.post("/api/chat", json={"session_id": session_id, "message": "waits"}))
    async with asyncio.timeout(5):
        while len((await second.history(session_id))["messages"]) < 4:
            await asyncio.sleep(0.01)
    forget_an_answer(first, monkeypatch, "reply_started")
    model.release()
    await running
    assert (await waiting).status_code == 503
    assert (await settled(second, session_id))[-1] == ("assistant", "interrupted")
    assert (await second.chat(session_id, "next"))["content"] == "You said: next"


async def test_a_cancel_from_another_node_that_comes_too_late_leaves_the_next_reply_alone(
    pair: list[Running], model: ModelServer
) -> None:
    first, _ = pair
    session_id = await first.session()
    model.script(pieces=("a",), hold_after=1)
    running = asyncio.create_task(first.chat(session_id, "one"))
    await model.wait_requests()
    model.script(pieces=("b", "c"), stepwise=True)
    following = asyncio.create_task(first.chat(session_id, "two"))
    address = address_of(first.services.nodes.name)
    assert address is not None
    async with asyncio.timeout(5):
        while len(first.services.supervisor.replies(session_id)) < 2:
            await asyncio.sleep(0.01)
    reply_id = next(iter(first.services.supervisor.replies(session_id)))

    async def late() -> AsyncIterator[bytes]:
        yield b'{"cause":"client"'
        model.release()
        await running
        await model.wait_requests(2)
        yield b"}"

    async with httpx.AsyncClient(base_url=address.url, headers={"Authorization": f"Bearer {SECRET}"}) as peer:
        answer = await peer.post(f"/replies/{session_id}/{reply_id}/cancel", content=late())
    for _ in range(3):
        model.step()
    assert (await following)["status"] == "complete"
    assert answer.status_code == 404


async def test_who_reads_here_what_another_node_writes_is_told_to_come_back_when_this_one_retires(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    brief = {"CHATBOT_SERVER_RELOAD_GRACE_S": "0.2"}
    async with nodes(tmp_path, await postgres.schema(), model.url, **brief) as (first, second):
        session_id = await first.session()
        model.script(pieces=("a",), hold_after=1)
        body, keyed = {"session_id": session_id, "message": "hi"}, {"Idempotency-Key": "once"}
        writing = asyncio.create_task(first.client.post("/api/chat", json=body, headers=keyed))
        await model.wait_requests()
        joined = asyncio.create_task(second.client.post("/api/chat/stream", json=body, headers=keyed))
        async with asyncio.timeout(5):
            while second.services.nodes.running_reply(session_id) is None:
                await asyncio.sleep(0.01)
        await retire(second.services, web.AppRunner(web.Application()), asyncio.Event())
        async with asyncio.timeout(2):
            last, done = frames((await joined).text)[-2:]
        assert (last["type"], last["status"], done["type"]) == ("error", "unrecorded", "done")
        model.release()
        assert (await writing).json()["status"] == "complete"
