"""Each worker sends the same events of a response, whichever of them writes it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.service import program

pytestmark = pytest.mark.asyncio(loop_scope="module")

READERS = 8  # on connections of their own, which both workers accept


async def test_readers_of_any_worker_get_the_same_events(tmp_path: Path, model: ModelServer) -> None:
    model.script(pieces=tuple(f"piece{number} " for number in range(20)), delay_s=0.03)
    body = {"model": "fake-model", "input": "Go.", "background": True}

    async with program(tmp_path, model.url, "--workers", "2") as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            made = (await client.post("/v1/responses", json=body)).json()

        async def read(after: int) -> list[dict[str, Any]]:
            query = {"stream": "true", "starting_after": str(after)}
            async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
                answer = await client.get(f"/v1/responses/{made['id']}", params=query)
            lines = answer.text.split("\n")
            return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]

        live = await asyncio.gather(*(read(number % 4) for number in range(READERS)))
        late = await read(-1)
    assert late[-1]["type"] == "response.completed"
    assert [event["sequence_number"] for event in late] == list(range(len(late)))
    for number, events in enumerate(live):
        assert events == late[number % 4 + 1 :]
