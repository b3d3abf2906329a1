"""A response has the same events, byte for byte, on each node, and after the node that wrote it was killed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.node_cluster import node_programs
from tests.support.programs.postgres_server import PostgresServer

pytestmark = pytest.mark.real_part

PIECES = ("one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight")
BRISK = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05", "CHATBOT_NODES_FAILURE_TIMEOUT_S": "1"}
MIDDLE = 6  # "two " has number 5


async def request_response(client: httpx.AsyncClient, model: ModelServer) -> str:
    """The id of a response that says half of its text, and then waits."""
    model.script(pieces=PIECES, hold_after=4)
    body = {"model": "fake-model", "input": "Go.", "background": True}
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


class EventReader:
    """A stream of the response's events after one of them, as it was sent. `events` end with [DONE]."""

    def __init__(self, client: httpx.AsyncClient, response_id: str, after: int = -1) -> None:
        self.events: list[str] = []
        self._has_more = asyncio.Event()
        query = {"stream": "true", "starting_after": str(after)}
        self.ended = asyncio.create_task(self._read(client, f"/v1/responses/{response_id}", query))

    async def _read(self, client: httpx.AsyncClient, url: str, query: dict[str, str]) -> list[str]:
        async with client.stream("GET", url, params=query) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.events.append(line)
                    self._has_more.set()
        return self.events

    async def wait_for(self, text: str) -> None:
        """Return once an event has the delta `text`."""
        async with asyncio.timeout(10):
            while not any(f'"delta":"{text}"' in event for event in self.events):
                self._has_more.clear()
                await self._has_more.wait()


async def recorded(client: httpx.AsyncClient, response_id: str, text: str) -> None:
    """Return once `text` of the reply is on record."""
    async with asyncio.timeout(5):
        while True:
            digits = response_id[5:37]
            session_id = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            messages = (await client.get(f"/api/sessions/{session_id}/messages")).json()["messages"]
            if any(one["content"] == text for one in messages):
                return
            await asyncio.sleep(0.02)


async def test_events_are_the_same_on_each_node_and_after_the_writing_one_was_killed(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    async with node_programs(tmp_path, await postgres.schema(), model.url, **BRISK) as ((first, one), (_, two)):

        async def follow(response_id: str) -> tuple[EventReader, EventReader, EventReader]:
            """Readers of the running response: where it is written, and at the other node from two places on."""
            readers = EventReader(one, response_id), EventReader(two, response_id)
            for reader in readers:
                await reader.wait_for("three ")  # "four " may go on, and is held back
            return *readers, EventReader(two, response_id, MIDDLE)

        async def replay(client: httpx.AsyncClient, response_id: str, after: int = -1) -> list[str]:
            return await EventReader(client, response_id, after).ended

        response_id = await request_response(one, model)
        here, there, middle = await follow(response_id)
        model.release()
        events = await here.ended
        assert '"response.completed"' in events[-2]
        assert await there.ended == events
        assert await middle.ended == events[MIDDLE + 1 :]
        for client in (one, two):
            assert await replay(client, response_id) == events
            assert await replay(client, response_id, MIDDLE) == events[MIDDLE + 1 :]

        model.released.clear()
        response_id = await request_response(one, model)
        here, there, middle = await follow(response_id)
        await recorded(two, response_id, "".join(PIECES[:4]))
        await first.kill()
        await asyncio.gather(here.ended, return_exceptions=True)
        events = await there.ended
        assert '"response.failed"' in events[-2]
        assert here.events == events[: len(here.events)], "what the killed node has sent"
        assert await middle.ended == events[MIDDLE + 1 :]
        assert await replay(two, response_id) == events
        assert await replay(two, response_id, MIDDLE) == events[MIDDLE + 1 :]
        assert numbers_of(events) == list(range(len(events) - 1))


def numbers_of(events: list[str]) -> list[Any]:
    return [json.loads(one.removeprefix("data: "))["sequence_number"] for one in events[:-1]]
