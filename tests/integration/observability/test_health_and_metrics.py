"""Health, readiness, metrics, keys."""

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from chatbot.llm import health_monitor as health_module
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.service import Running, serving


async def test_health_has_the_seeds_fields_and_ours(service: Running) -> None:
    health = (await service.client.get("/api/health")).json()
    assert health["status"] == "healthy"
    assert health["llm_server_available"] is True
    assert health["database_connected"] is True
    assert {"timestamp", "version", "provider"} <= set(health)


async def test_health_knows_at_once_what_a_request_met(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "UNAVAILABLE_INTERVAL_S", 60.0)
    rare = {"CHATBOT_LLM_HEALTH_INTERVAL_S": "60", "CHATBOT_LLM_RETRIES_MAX": "0"}
    async with serving(tmp_path, model.url, **rare) as service:
        session_id = await service.session()
        body = {"session_id": session_id, "message": "hi"}
        for status, available in ((503, False), (200, True)):
            model.script(status=status)
            assert (await service.client.post("/api/chat", json=body)).status_code == status
            health = (await service.client.get("/api/health")).json()
            assert health["llm_server_available"] is available
            assert health["llm_server_state"] == ("available" if available else "loading")
            assert health["status"] == ("healthy" if available else "degraded")


async def test_health_tells_a_model_that_is_loaded_from_a_server_that_is_gone(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url) as service:
        states = []
        for model.status in (200, 503, 500):
            await service.services.health.refresh()
            states.append((await service.client.get("/api/health")).json()["llm_server_state"])
    assert states == ["available", "loading", "unavailable"]


async def test_alive_and_ready(service: Running) -> None:
    assert (await service.client.get("/livez")).json() == {"status": "alive"}
    assert (await service.client.get("/readyz")).json() == {"status": "ready"}
    service.services.readiness.state = "draining"
    assert (await service.client.get("/readyz")).status_code == 503


async def scrape(service: Running) -> str:
    return (await service.client.get("/metrics")).text


def value(text: str, sample: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(line.rpartition(" ")[2])


async def test_metrics_count_what_happened(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hello there")
    model.script(times=3, status=500)
    await service.client.post("/api/chat", json={"session_id": session_id, "message": "x"})
    await service.history(session_id)
    text = await scrape(service)
    route = 'method="POST",route="/api/chat",status="{}"'
    assert value(text, f"chatbot_http_request_seconds_count{{{route.format(200)}}}") == 1
    assert value(text, f"chatbot_http_request_seconds_count{{{route.format(502)}}}") == 1
    for outcome in ("complete", "failed"):
        assert value(text, f'chatbot_replies_total{{model="fake-model",outcome="{outcome}",provider="openai"}}') == 1
    assert value(text, 'chatbot_sessions{status="active"}') == 1
    assert value(text, "chatbot_live_actors") == 1
    assert value(text, "chatbot_open_streams") == 0
    assert value(text, "chatbot_projection_lag_events") == 0
    assert value(text, "chatbot_model_available") == 1
    assert value(text, "chatbot_append_seconds_count") >= 3
    assert "process_cpu_seconds_total" in text


async def test_no_label_is_unbounded(tmp_path: Path, model: ModelServer) -> None:
    model.status = 404  # any name is passed on where there is no list
    async with serving(tmp_path, model.url) as service:
        await check_labels(service)


async def check_labels(service: Running) -> None:
    session_id = await service.session()
    for number in range(30):
        await service.chat(session_id, "x", model=f"model-{number}")
        await service.client.get(f"/nothing/{number}")
        await service.client.request("METHOD" + chr(65 + number % 26), "/livez")
    text = await scrape(service)
    assert session_id not in text
    assert "/nothing/" not in text
    assert "METHODH" not in text
    assert 'model="model-29"' not in text
    assert 'model="other"' in text


@requires_program("promtool")
async def test_promtool_finds_nothing_to_complain_of(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "hello")
    checked = subprocess.run(
        [str(shutil.which("promtool")), "check", "metrics"],
        input=await scrape(service), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


async def test_openmetrics_is_offered_to_those_who_ask(service: Running) -> None:
    answer = await service.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_keys_keep_tenants_apart(tmp_path: Path, model: ModelServer) -> None:
    keys = "mina:secret-of-mina-123,jun:secret-of-jun-4567"
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=keys) as service:
        url = service.client.base_url
        assert (await service.client.get("/api/sessions")).status_code == 401
        assert (await service.client.get("/api/health")).status_code == 200
        wrong = await service.client.get("/api/sessions", headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401
        assert wrong.headers["WWW-Authenticate"] == "Bearer"
        mina = httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer secret-of-mina-123"})
        jun = httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer secret-of-jun-4567"})
        async with mina, jun:
            session_id = (await mina.post("/api/sessions")).json()["session_id"]
            assert (await mina.get(f"/api/sessions/{session_id}")).status_code == 200
            for method, path in (
                ("GET", ""),
                ("GET", "/messages"),
                ("GET", "/stream"),
                ("DELETE", ""),
                ("PATCH", ""),
                ("POST", "/cancel"),
            ):
                body = {"title": "x"} if method == "PATCH" else None
                answer = await jun.request(method, f"/api/sessions/{session_id}{path}", json=body)
                assert answer.status_code == 404, (method, path)
            posted = await jun.post("/api/chat", json={"session_id": session_id, "message": "hi"})
            assert posted.status_code == 404
            assert (await jun.get("/api/sessions")).json()["sessions"] == []
            assert len((await mina.get("/api/sessions")).json()["sessions"]) == 1
        recorded = await service.services.log.read(session_id, limit=10)
        assert recorded[0].metadata.actor == "mina"
        assert recorded[0].metadata.request_id


async def test_a_server_that_retires_tells_clients_to_connect_again(service: Running) -> None:
    assert (await service.client.get("/livez")).headers.get("Connection") != "close"
    service.services.readiness.retiring = True
    assert (await service.client.get("/livez")).headers["Connection"] == "close"
    body = {"session_id": await service.session(), "message": "hello"}
    async with service.client.stream("POST", "/api/chat/stream", json=body) as answer:
        assert answer.headers["Connection"] == "close"
        assert "complete" in (await answer.aread()).decode()
