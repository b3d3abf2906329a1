"""A node that dies, freezes or cannot be reached: its open replies are closed once, by the first node that notices."""

import asyncio
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.feed_reader import following, text_of
from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import node_programs, nodes
from tests.support.programs.external_programs import free_port
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part
PIECES = ("one ", "two ", "three")
TEXT = "".join(PIECES)
BRISK = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05", "CHATBOT_NODES_FAILURE_TIMEOUT_S": "1"}


async def chatting(client: httpx.AsyncClient, model: ModelServer) -> tuple[str, asyncio.Task[httpx.Response]]:
    """A session whose reply has all of its text, and does not end."""
    model.script(pieces=PIECES, hold_after=len(PIECES))
    session_id = (await client.post("/api/sessions")).json()["session_id"]
    body = {"session_id": session_id, "message": "hi"}
    return session_id, asyncio.create_task(client.post("/api/chat", json=body))


async def written(client: httpx.AsyncClient, session_id: str, text: str = TEXT) -> None:
    """Return once a reader there has all of the text."""
    async with following(client, session_id, 0) as feed:
        seen = await feed.until("start")
        while text_of(seen) != text:
            seen.append(await feed.next())


async def recorded(client: httpx.AsyncClient, session_id: str) -> None:
    """Return once all of the text is on record."""
    async with asyncio.timeout(5):
        while True:
            messages = (await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"]
            if any(one["content"] == TEXT for one in messages):
                return
            await asyncio.sleep(0.02)


async def ends_of(client: httpx.AsyncClient, session_id: str) -> list[tuple[str, Any]]:
    trail = (await client.get(f"/api/sessions/{session_id}/events", params={"limit": 1000})).json()["events"]
    ends = ("reply_completed", "reply_failed", "reply_cancelled", "reply_interrupted")
    return [(one["type"], one["data"]["content"]) for one in trail if one["type"] in ends]


async def test_the_replies_of_a_killed_node_are_closed_by_another_and_its_readers_told(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    async with node_programs(tmp_path, await postgres.schema(), model.url, **BRISK) as ((first, one), (second, two)):
        session_id, lost = await chatting(one, model)
        async with following(two, session_id, 0) as feed:
            seen = await feed.until("start")
            while text_of(seen) != TEXT:
                seen.append(await feed.next())
            waiting = asyncio.create_task(
                two.post("/api/chat", json={"session_id": session_id, "message": "and then?"})
            )
            killed_s = time.monotonic()
            await first.kill()
            (error,) = [frame for frame in await feed.until("error") if frame["type"] == "error"]
            print(f"closed {time.monotonic() - killed_s:.2f} s after the kill")
            assert (error["status"], error["message_id"]) == ("interrupted", seen[-1]["message_id"])
            assert error["length"] <= len(TEXT)
        answer = await waiting
        assert answer.json()["content"] == "You said: and then?"
        with pytest.raises(httpx.TransportError):
            await lost
        kinds = [kind for kind, _ in await ends_of(two, session_id)]
        assert kinds == ["reply_interrupted", "reply_completed"]
        assert await second.stop() == 0


async def test_what_a_killed_node_owed_is_closed_though_nobody_asks(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    async with node_programs(tmp_path, await postgres.schema(), model.url, **BRISK) as ((first, one), (_, two)):
        session_id, lost = await chatting(one, model)
        await recorded(one, session_id)
        queued = asyncio.create_task(one.post("/api/chat", json={"session_id": session_id, "message": "waits"}))
        async with asyncio.timeout(5):
            while len((await two.get(f"/api/sessions/{session_id}/messages")).json()["messages"]) < 4:
                await asyncio.sleep(0.02)
        await first.kill()
        await asyncio.gather(lost, queued, return_exceptions=True)
        async with asyncio.timeout(10):
            while (await two.get(f"/api/sessions/{session_id}")).json()["status"] != "active":
                await asyncio.sleep(0.05)
        assert await ends_of(two, session_id) == [("reply_interrupted", TEXT), ("reply_interrupted", "")]


async def test_a_frozen_node_finds_its_reply_closed_stops_the_model_and_serves_on(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    async with node_programs(tmp_path, await postgres.schema(), model.url, **BRISK) as ((first, one), (_, two)):
        session_id, asked = await chatting(one, model)
        await recorded(two, session_id)
        first.process.send_signal(signal.SIGSTOP)
        async with following(two, session_id, 0) as feed:
            errors = [frame for frame in await feed.until("error") if frame["type"] == "error"]
            assert [frame["status"] for frame in errors] == ["interrupted"]
        going_on = await two.post("/api/chat", json={"session_id": session_id, "message": "still there?"})
        assert going_on.json()["content"] == "You said: still there?"
        first.process.send_signal(signal.SIGCONT)
        await model.wait_aborted()
        assert (await asked).json()["partial"] == TEXT
        again = await one.post("/api/chat", json={"session_id": session_id, "message": "back"})
        assert again.json()["content"] == "You said: back"
        kinds = [kind for kind, _ in await ends_of(two, session_id)]
        assert kinds == ["reply_interrupted", "reply_completed", "reply_completed"]


async def test_a_node_that_answers_may_think_for_as_long_as_it_likes(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    async with nodes(tmp_path, await postgres.schema(), model.url, **BRISK) as (first, second):
        session_id, asked = await chatting(first.client, model)
        await written(second.client, session_id)
        await asyncio.sleep(2.5)  # more than twice failure_timeout_s with nothing recorded
        model.release()
        assert (await asked).json()["content"] == TEXT


async def test_a_node_that_does_not_answer_lives_for_as_long_as_it_records(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    """Its address leads to a port that takes connections and says nothing, as across a broken network."""
    port = free_port()
    lost = {"CHATBOT_NODES_LISTEN_PORT": str(port), "CHATBOT_NODES_ADVERTISE_HOST": "127.0.0.9"}
    probes = {"CHATBOT_NODES_PROBE_TIMEOUT_S": "0.2", "CHATBOT_NODES_SWEEP_INTERVAL_S": "0.1"}
    brisk = {**BRISK, **probes, "CHATBOT_NODES_FAILURE_TIMEOUT_S": "3"}
    schema = await postgres.schema()
    with socket.create_server(("127.0.0.9", port)):
        async with nodes(tmp_path, schema, model.url, lost, {}, **brisk) as (first, second):
            model.delay_s = 0.1
            pieces = tuple(f"word{number} " for number in range(60))  # six seconds of it
            model.script(pieces=pieces, hold_after=len(pieces))
            session_id = await first.session()
            asked = asyncio.create_task(
                first.client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
            )
            await written(first.client, session_id, "".join(pieces))  # nobody reads it on the second
            assert await ends_of(first.client, session_id) == []
            async with asyncio.timeout(10):  # now it records nothing more
                while not await ends_of(second.client, session_id):
                    await asyncio.sleep(0.05)
            assert await ends_of(first.client, session_id) == [("reply_interrupted", "".join(pieces))]
            await model.wait_aborted()
            assert (await asked).json()["partial"] == "".join(pieces)
