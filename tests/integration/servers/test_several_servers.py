"""Several model servers: turns go to those that may serve them, and to another one before the first token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.model.model_server import ModelServer
from tests.support.model.model_server_process import several_servers
from tests.support.service import Running, serving


@asynccontextmanager
async def pool_of(folder: Path, *servers: ModelServer, **settings: str) -> AsyncIterator[Running]:
    """A service over these servers, which are called a, b, ..."""
    tables = [{"name": chr(ord("a") + number), "url": server.url} for number, server in enumerate(servers)]
    async with serving(folder, "", **several_servers(tables, **settings)) as running:
        yield running


async def server_of(running: Running, session_id: str) -> list[str | None]:
    """By which server each reply of the session was written, as recorded."""
    answer = await running.client.get(f"/api/sessions/{session_id}/events")
    return [event["data"].get("server") for event in answer.json()["events"] if event["type"] == "reply_completed"]


async def until_health(running: Running, name: str, *, available: bool) -> None:
    async with asyncio.timeout(20):
        while True:
            health = (await running.client.get("/api/health")).json()
            if (name, available) in [(one["name"], one["available"]) for one in health["llm_servers"]]:
                return
            await asyncio.sleep(0.01)


async def test_a_session_stays_on_one_server_and_the_record_names_it(tmp_path: Path) -> None:
    async with ModelServer() as a, ModelServer() as b, pool_of(tmp_path, a, b) as running:
        for _ in range(6):
            session = await running.session()
            for turn in range(3):
                await running.chat(session, f"turn {turn}")
            assert len(set(await server_of(running, session))) == 1
        assert a.requests
        assert b.requests


async def test_a_server_that_is_away_costs_no_turn(tmp_path: Path) -> None:
    async with ModelServer() as a, ModelServer() as b, pool_of(tmp_path, a, b) as running:
        sessions = [await running.session() for _ in range(8)]
        await b.stop()
        for session in sessions:
            assert (await running.chat(session, "hello"))["content"] == "You said: hello"
            assert await server_of(running, session) == ["a"]
        await until_health(running, "b", available=False)
        health = (await running.client.get("/api/health")).json()
        assert health["llm_server_available"]
        assert [(one["name"], one["available"]) for one in health["llm_servers"]] == [("a", True), ("b", False)]


async def test_a_model_is_asked_of_the_server_that_has_it(tmp_path: Path) -> None:
    async with ModelServer() as a, ModelServer() as b:
        b.model = "other-model"
        async with pool_of(tmp_path, a, b) as running:
            models = (await running.client.get("/api/models")).json()
            assert {one["id"] for one in models["models"]} == {"fake-model", "other-model"}
            for model, server in (("fake-model", "a"), ("other-model", "b"), (None, "a")):
                session = await running.session()
                chosen = {} if model is None else {"model": model}
                await running.chat(session, "hello", **chosen)
                assert await server_of(running, session) == [server]
            session = await running.session()
            refused = await running.client.post(
                "/api/chat", json={"session_id": session, "message": "hello", "model": "nobody's"}
            )
            assert refused.status_code in (400, 404, 422)
            await b.stop()
            await until_health(running, "b", available=False)
            away = await running.client.post(
                "/api/chat", json={"session_id": session, "message": "hello", "model": "other-model"}
            )
            assert away.status_code == 503
            assert away.json()["detail"] == "No model server that has this model is available"
