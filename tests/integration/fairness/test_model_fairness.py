"""Owners share the model round robin: who floods delays others by one turn at most, and is the one that is refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.programs.nginx import nginx
from tests.support.service import Running, serving

KEYS = {"a": "a-very-long-secret-of-a", "b": "a-very-long-secret-of-b"}
SETTINGS = {
    "CHATBOT_API_KEYS": ",".join(f"{name}:{secret}" for name, secret in KEYS.items()),
    "CHATBOT_AUTH_FRONT_ENDS": "a",
    "CHATBOT_LLM_CONCURRENT_MAX": "1",
    "CHATBOT_LLM_QUEUE_MAX": "4",
}


class Owner:
    """A client with one owner's key, which has each turn in a session of its own."""

    def __init__(self, name: str, client: httpx.AsyncClient, service: Running) -> None:
        self.name = name
        self.client = client
        self.service = service
        self.asked = 0

    async def ask(self, **metadata: Any) -> httpx.Response:
        text, self.asked = f"{self.name}{self.asked}", self.asked + 1
        session = await self.client.post("/api/sessions", json={"metadata": metadata})
        body = {"session_id": session.json()["session_id"], "message": text}
        return await self.client.post("/api/chat", json=body)

    async def queue(self, turns: int, **metadata: Any) -> list[asyncio.Task[httpx.Response]]:
        """Ask so many times; returns when all run or wait."""
        limiter, asking = self.service.services.limiter, []
        for _ in range(turns):
            before = limiter.running + limiter.waiting
            asking.append(asyncio.create_task(self.ask(**metadata)))
            async with asyncio.timeout(10):
                while limiter.running + limiter.waiting == before:
                    await asyncio.sleep(0.002)
        return asking


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    model.script(times=None, pieces=("x", "y"), hold_after=1)
    async with serving(tmp_path, model.url, **SETTINGS) as running:
        yield running


@pytest.fixture(params=["direct", pytest.param("nginx", marks=[pytest.mark.real_part, requires_program("nginx")])])
async def owners(request: pytest.FixtureRequest, tmp_path: Path, service: Running) -> AsyncIterator[list[Owner]]:
    async with AsyncExitStack() as stack:
        url = service.url
        if request.param == "nginx":
            url = (await stack.enter_async_context(nginx(tmp_path / "nginx", url))).url
        made: list[Owner] = []
        for name, secret in KEYS.items():
            client = httpx.AsyncClient(base_url=url, timeout=30, headers={"Authorization": f"Bearer {secret}"})
            made.append(Owner(name, await stack.enter_async_context(client), service))
        yield made


def asked(model: ModelServer) -> list[str]:
    """What the model was asked, in order."""
    return [str(one.body["messages"][-1]["content"]) for one in model.requests]


async def test_an_owner_that_floods_delays_no_other_and_is_told_so(
    owners: list[Owner], service: Running, model: ModelServer
) -> None:
    flooding, other = owners
    turns = await flooding.queue(5)  # one runs, four wait
    alone = await flooding.ask()
    assert (alone.status_code, alone.json()["type"]) == (503, "/problems/overloaded")
    turns += await other.queue(2)
    position = service.services.log.head().position
    service.services.limiter.mean_s = 3.0
    for owner, wait_s in ((flooding, 21), (other, 18)):
        refused = await owner.ask()
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/over-share")
        assert refused.headers["Retry-After"] == str(wait_s)  # what waits before its next turn, and that itself
    assert service.services.log.head().position == position + 2  # two sessions, and nothing in them
    assert service.services.limiter.owners_waiting == 2
    model.release()
    assert [(await turn).status_code for turn in turns] == [200] * 7
    assert asked(model) == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


async def test_a_refusal_under_v1_is_one_that_clients_repeat(owners: list[Owner], model: ModelServer) -> None:
    flooding, other = owners
    turns = await flooding.queue(5) + await other.queue(1)
    body = {"model": "fake-model", "messages": [{"role": "user", "content": "v1"}]}
    refused = await flooding.client.post("/v1/chat/completions", json=body)
    assert refused.status_code == 429
    assert (refused.headers["X-Should-Retry"], refused.headers["Retry-After"]) == ("true", "1")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    admitted = asyncio.create_task(other.client.post("/v1/chat/completions", json=body))
    await asyncio.sleep(0)
    model.release()
    assert (await admitted).status_code == 200
    assert {(await turn).status_code for turn in turns} == {200}


async def test_end_users_of_one_owner_take_turns(owners: list[Owner], model: ModelServer) -> None:
    owner = owners[0]
    turns = await owner.queue(3, user_id="mina") + await owner.queue(2, user_id="jun")
    model.release()
    assert {(await turn).status_code for turn in turns} == {200}
    assert asked(model) == ["a0", "a1", "a3", "a2", "a4"]
