"""Several model servers: turns go to those that may serve them, and to another one before the first token."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import to_builtins
from structlog.testing import capture_logs

from chatbot.audit.model_calls import read_model_calls
from chatbot.cli.record.prompt import describe_call
from chatbot.config.loader import load
from chatbot.llm.provider import ChatMessage
from tests.support.model.model_server import ModelServer
from tests.support.model.model_server_process import several_servers
from tests.support.service import ROOT, Running, serving

KEY = "a-key-of-an-auditor"


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
        for _ in range(20):
            session = await running.session()
            for turn in range(2):
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
            listed = (await running.client.get("/v1/models")).json()["data"]
            assert {one["id"] for one in listed} == {"fake-model", "other-model"}
            body = {"model": "other-model", "messages": [{"role": "user", "content": "hello"}]}
            completion = await running.client.post("/v1/chat/completions", json=body)
            assert (completion.status_code, completion.json()["model"]) == (200, "other-model")
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


async def test_the_readmes_servers_are_served_and_watched(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"^```toml\n(.*?)^```$", (ROOT / "chatbot/llm/README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "config.toml").write_text(block)
    configured = load({}, environment={}, folder=tmp_path).settings.llm
    assert [(one.name, one.concurrency, one.weight) for one in configured.servers] == [
        ("gpu-1", 32, 1.0),
        ("gpu-2", 64, 2.0),
        ("hosted", 0, 0.2),
    ]
    async with ModelServer() as a, ModelServer() as b, ModelServer() as c:
        for server in (a, b, c):
            server.model, server.protocols = configured.model, ("openai",)
        c.api_key = configured.servers[2].key
        tables = [
            {**to_builtins(one), "url": server.url} for one, server in zip(configured.servers, (a, b, c), strict=True)
        ]
        async with serving(tmp_path, "", **several_servers(tables, CHATBOT_LLM_MODEL=configured.model)) as running:
            for _ in range(40):
                await running.chat(await running.session(), "hello")
            assert [server.requests != [] for server in (a, b)] == [True, True]
            health = (await running.client.get("/api/health")).json()
            assert health["llm_servers"][0] == {"name": "gpu-1", "available": True, "state": "available", "models": 1}
            metrics = (await running.client.get("/metrics")).text
            counts = re.findall(
                r'^chatbot_llm_server_requests_total{outcome="completed",server="([a-z0-9-]+)"} (\d+)',
                metrics,
                re.MULTILINE,
            )
            assert sum(int(count) for _, count in counts) == 40
            assert {name for name, _ in counts} <= {"gpu-1", "gpu-2", "hosted"}
            for sample in (
                'chatbot_llm_server_up{server="gpu-1"} 1.0',
                'chatbot_llm_server_outstanding{server="gpu-1"} 0.0',
                'chatbot_llm_server_breaker{server="gpu-1",state="closed"} 1.0',
                'chatbot_llm_server_breaker{server="gpu-1",state="open"} 0.0',
            ):
                assert sample in metrics


async def test_a_reply_that_is_cancelled_or_fails_names_its_server_too(tmp_path: Path) -> None:
    async with ModelServer() as a, pool_of(tmp_path, a) as running:
        session = await running.session()
        a.script(pieces=("one", "two"), hold_after=1)
        body = {"session_id": session, "message": "hello"}
        turn = asyncio.create_task(running.client.post("/api/chat", json=body))
        await a.wait_requests(1)
        cancelled = await running.client.post(f"/api/sessions/{session}/cancel", json={})
        assert cancelled.status_code == 202, cancelled.text
        await turn
        a.script(pieces=("one",), then="cut")
        await running.client.post("/api/chat", json=body)
        events = (await running.client.get(f"/api/sessions/{session}/events")).json()["events"]
        ends = [
            (one["type"], one["data"]["server"]) for one in events if one["type"] in ("reply_cancelled", "reply_failed")
        ]
        assert ends == [("reply_cancelled", "a"), ("reply_failed", "a")]


async def test_the_requests_to_servers_of_several_protocols_can_be_shown(tmp_path: Path) -> None:
    async with ModelServer() as a, ModelServer() as b:
        a.protocols, b.protocols = ("midm",), ("openai",)
        tables = [
            {"name": "a", "url": a.url, "protocol": "midm", "models": ["one"]},
            {"name": "b", "url": b.url, "protocol": "auto", "models": ["two"]},
        ]
        async with serving(tmp_path, "", **several_servers(tables)) as running:
            session = await running.session()
            for model in ("one", "two"):
                await running.chat(session, "hello", model=model)
            assert await server_of(running, session) == ["a", "b"]
            calls = [call async for call in read_model_calls(running.services.log, session)]
            assert [(call.started.provider, call.provider) for call in calls] == [
                ("mixed", "midm"),
                ("mixed", "openai"),
            ]
            shown = [describe_call(call).request for call in calls]
            assert shown[0]["messages"] == (ChatMessage("user", "hello"),)
            assert "stream_options" in shown[1]
            metrics = (await running.client.get("/metrics")).text
            for model, provider in (("one", "midm"), ("two", "openai")):
                labels = f'{{model="{model}",outcome="complete",provider="{provider}"}}'
                assert f"chatbot_replies_total{labels} 1.0" in metrics


async def test_one_server_has_no_list_and_no_series(tmp_path: Path) -> None:
    async with ModelServer() as server, serving(tmp_path, server.url) as running:
        session = await running.session()
        await running.chat(session, "hello")
        assert await server_of(running, session) == [None]
        assert "llm_servers" not in (await running.client.get("/api/health")).json()
        assert "chatbot_llm_server_up{" not in (await running.client.get("/metrics")).text


async def test_changes_of_a_server_are_logged_once_and_only_auditors_see_why(tmp_path: Path) -> None:
    keys = {"CHATBOT_API_KEYS": f"auditor:{KEY}", "CHATBOT_AUTH_AUDITORS": "auditor"}
    with capture_logs() as lines:
        async with ModelServer() as a, ModelServer() as b, pool_of(tmp_path, a, b, **keys) as running:
            await b.stop()
            await until_health(running, "b", available=False)
            public, detailed = [
                (await running.client.get("/api/health", headers=headers)).json()["llm_servers"][1]
                for headers in ({}, {"X-API-Key": KEY})
            ]
            assert "detail" not in public
            assert b.url in detailed["detail"]
            await b.start()
            await until_health(running, "b", available=True)
    changes = [(line["event"], line["server"]) for line in lines if line["event"].startswith("llm.server_")]
    assert changes == [("llm.server_unavailable", "b"), ("llm.server_available", "b")]
