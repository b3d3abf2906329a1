"""Owners share streams, exports, verifications and actors: one above its part is refused, and others are not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from chatbot.api.request_limits import EXPORT_LIMIT, VERIFICATION_LIMIT
from tests.support.http.feed_reader import following
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

KEYS = {"a": "a-very-long-secret-of-a", "b": "a-very-long-secret-of-b"}
SETTINGS = {
    "CHATBOT_API_KEYS": ",".join(f"{name}:{secret}" for name, secret in KEYS.items()),
    "CHATBOT_AUTH_AUDITORS": "a,b",
    "CHATBOT_STREAM_READERS_MAX": "2",
    "CHATBOT_STREAM_SSE_RETRY_S": "2.5",
    "CHATBOT_SERVER_OWNER_EXPORTS_MAX": "1",
    "CHATBOT_SESSIONS_ACTIVE_MAX": "3",
}
ACTORS_MAX = 3  # sessions.active_max
EVENT_SOURCE = {"Accept": "text/event-stream"}


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path, model.url, **SETTINGS) as running:
        yield running


@pytest.fixture
async def clients(service: Running) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=service.url, timeout=30, headers={"Authorization": f"Bearer {secret}"})
            )
            for secret in KEYS.values()
        ]


async def new_session(client: httpx.AsyncClient) -> str:
    return str((await client.post("/api/sessions", json={})).json()["session_id"])


async def test_an_owner_with_all_streams_keeps_none_from_another(clients: list[httpx.AsyncClient]) -> None:
    many, other = clients
    own, foreign = await new_session(many), await new_session(other)
    path = f"/api/sessions/{own}/stream"
    async with following(many, own) as first, following(many, own) as second:
        await asyncio.gather(first.next(), second.next())
        alone = await many.get(path)
        assert (alone.status_code, alone.json()["type"]) == (503, "/problems/overloaded")
        async with following(other, foreign) as third:
            await third.next()
            refused = await many.get(path)
            assert (refused.status_code, refused.json()["type"]) == (429, "/problems/over-share")
            assert refused.headers["Retry-After"] == "1"
            waiting = await many.get(path, headers=EVENT_SOURCE)  # a browser's would not come back after a 429
            assert (waiting.status_code, waiting.text.splitlines()[0]) == (200, "retry: 2500")


async def test_an_owner_with_all_verifications_keeps_none_from_another(
    clients: list[httpx.AsyncClient], service: Running
) -> None:
    many, other = clients
    limit = service.app[VERIFICATION_LIMIT]
    with limit.acquire("a"), limit.acquire("a"):
        assert (await many.get("/api/audit/verify")).status_code == 503
        assert (await other.get("/api/audit/verify")).json()["holds"]
        with limit.acquire("b"):
            for client in clients:
                refused = await client.get("/api/audit/verify")
                assert (refused.status_code, refused.json()["type"]) == (429, "/problems/over-share")
    assert (await many.get("/api/audit/verify")).status_code == 200


async def test_an_owner_at_its_own_limit_of_exports_is_refused_while_there_is_room(
    clients: list[httpx.AsyncClient], service: Running
) -> None:
    many, other = clients
    own, foreign = await new_session(many), await new_session(other)
    with service.app[EXPORT_LIMIT].acquire("a"):
        refused = await many.get(f"/api/sessions/{own}/export")
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/over-share")
        assert (await other.get(f"/api/sessions/{foreign}/export")).status_code == 200
    assert (await many.get(f"/api/sessions/{own}/export")).status_code == 200


async def test_an_owner_with_all_actors_busy_keeps_none_from_another(
    clients: list[httpx.AsyncClient], service: Running, model: ModelServer
) -> None:
    many, other = clients
    model.script(times=None, pieces=("x", "y"), hold_after=1)
    turns = []
    for number in range(ACTORS_MAX):
        body = {"session_id": await new_session(many), "message": "hi"}
        turns.append(asyncio.create_task(many.post("/api/chat", json=body)))
        await model.wait_requests(number + 1)
    assert (await many.post("/api/sessions", json={})).status_code == 503
    body = {"session_id": await new_session(other), "message": "hi"}
    turns.append(asyncio.create_task(other.post("/api/chat", json=body)))
    await model.wait_requests(ACTORS_MAX + 1)
    refused = await many.post("/api/sessions", json={})
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/over-share")
    model.release()
    assert {(await turn).status_code for turn in turns} == {200}
    assert (await many.post("/api/sessions", json={})).status_code == 201
