"""A real Prometheus scrapes the real program, with a key that may do nothing else."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.command_processes import run_command
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import free_port, requires_program
from tests.support.service import program

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: chatbot
    authorization: {{credentials_file: {secret_file}}}
    static_configs: [{{targets: ["{target}"]}}]
"""


@asynccontextmanager
async def prometheus(folder: Path, target: str, secret: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a Prometheus that scrapes `target` each second with the API key `secret`."""
    folder.mkdir()
    secret_file = folder / "secret"
    secret_file.write_text(secret)
    (folder / "prometheus.yml").write_text(CONFIG.format(target=target, secret_file=secret_file))
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            yield client
    finally:
        process.kill()
        await process.wait()


async def query(client: httpx.AsyncClient, promql: str) -> list[Any]:
    """The series that answer `promql`; none while Prometheus is not up."""
    try:
        answer = await client.get("/api/v1/query", params={"query": promql})
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"]["result"])


async def number(client: httpx.AsyncClient, promql: str) -> float:
    """The one number that answers `promql`, once there is one."""
    async with asyncio.timeout(20):
        while not (found := await query(client, promql)) or math.isnan(float(found[0]["value"][1])):
            await asyncio.sleep(0.1)
    assert len(found) == 1, found
    return float(found[0]["value"][1])


async def target_of(client: httpx.AsyncClient) -> dict[str, str]:
    (target,) = (await client.get("/api/v1/targets")).json()["data"]["activeTargets"]
    return dict(target)


@requires_program("prometheus")
async def test_prometheus_scrapes_the_service_and_answers_from_its_metrics(tmp_path: Path, model: ModelServer) -> None:
    model.delay_s = 0.02
    secret = (await run_command(tmp_path, "key", "add", "prometheus", "--scope", "metrics")).stdout.strip()
    async with (
        program(tmp_path, model.url, CHATBOT_API_KEYS="user:a-secret-of-the-user") as service,
        prometheus(tmp_path / "prometheus", service.url.removeprefix("http://"), secret) as client,
        httpx.AsyncClient(base_url=service.url, timeout=20, headers={"X-API-Key": "a-secret-of-the-user"}) as user,
    ):
        forbidden = await user.get("/api/sessions", headers={"X-API-Key": secret})
        assert (forbidden.status_code, "scope chat" in forbidden.json()["detail"]) == (403, True)
        session_id = (await user.post("/api/sessions")).json()["session_id"]
        for _ in range(3):
            answer = await user.post("/api/chat", json={"session_id": session_id, "message": "hello there"})
            assert answer.status_code == 200
        assert await number(client, 'up{job="chatbot"} == 1') == 1
        assert await number(client, 'chatbot_replies_total{outcome="complete",model="fake-model"} > 2') == 3
        typical_s = await number(client, "histogram_quantile(0.5, sum by (le) (chatbot_reply_seconds_bucket))")
        assert 0.02 < typical_s < 2
        for histogram in (
            "chatbot_http_request_seconds",
            "chatbot_time_to_first_token_seconds",
            "chatbot_time_per_token_seconds",
            "chatbot_append_seconds",
            "chatbot_commit_seconds",
            "chatbot_append_batch_events",
        ):
            assert await number(client, f"histogram_quantile(0.9, sum by (le) ({histogram}_bucket))") > 0
        assert await number(client, 'chatbot_sessions{status="active"}') == 1
        assert await number(client, "process_open_fds") > 0
        assert await number(client, "count_over_time(up[1m]) >= 3") >= 3
        assert await number(client, "sum_over_time(up[1m]) >= 3") >= 3
        async with asyncio.timeout(20):
            while (target := await target_of(client))["health"] != "up":  # the last scrape may have come too late
                await asyncio.sleep(0.1)
        assert target["lastError"] == ""
        described = (await client.get("/api/v1/metadata", params={"metric": "chatbot_replies_total"})).json()["data"]
        described = (
            described or (await client.get("/api/v1/metadata", params={"metric": "chatbot_replies"})).json()["data"]
        )
        assert [entry["type"] for entries in described.values() for entry in entries] == ["counter"]
