"""Wrong keys and tickets over HTTP: 401, then 429, and never for somebody with a valid key."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

SECRET = "a-secret-of-minas-own"
RATE = 3


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    settings = {"CHATBOT_API_KEYS": f"mina:{SECRET}", "CHATBOT_AUTH_FAILURES_PER_MINUTE": str(RATE)}
    async with serving(tmp_path, model.url, **settings) as running:
        yield running


async def fail(service: Running, path: str = "/api/sessions", times: int = RATE) -> list[httpx.Response]:
    return [await service.client.get(path, headers={"X-API-Key": f"wrong-{number}"}) for number in range(times)]


async def test_beyond_the_rate_a_wrong_key_gets_429_and_a_valid_one_still_passes(service: Running) -> None:
    assert [one.status_code for one in await fail(service)] == [401] * RATE
    (refused,) = await fail(service, times=1)
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-failures")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert "WWW-Authenticate" not in refused.headers
    valid = await service.client.get("/api/sessions", headers={"X-API-Key": SECRET})
    assert valid.status_code == 200
    without = await service.client.get("/api/sessions")
    assert without.status_code == 401, "nothing was tried"
    metrics = (await service.client.get("/metrics", headers={"X-API-Key": SECRET})).text
    assert f'chatbot_authentication_failures_total{{credential="key",throttled="false"}} {RATE}.0' in metrics
    assert 'chatbot_authentication_failures_total{credential="key",throttled="true"} 1.0' in metrics


async def test_wrong_tickets_count_and_expired_ones_do_not(service: Running) -> None:
    headers = {"X-API-Key": SECRET}
    session = (await service.client.post("/api/sessions", headers=headers)).json()["session_id"]
    feed = f"/api/sessions/{session}/stream"
    statuses = [(await service.client.get(feed, params={"ticket": "forged"})).status_code for _ in range(RATE + 1)]
    assert statuses == [401] * RATE + [429]


async def test_under_v1_the_refusal_has_openais_form(service: Running) -> None:
    await fail(service, "/v1/models")
    (refused,) = await fail(service, "/v1/models", 1)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["X-Should-Retry"] == "false"
    assert int(refused.headers["Retry-After"]) >= 1


async def test_public_paths_answer_whoever_fails_and_count_it(service: Running) -> None:
    answers = await fail(service, "/api/health", RATE + 3)
    assert {one.status_code for one in answers} == {200}
    (refused,) = await fail(service, times=1)
    assert refused.status_code == 429
