"""The files in chatbot/deploy, read by the real programs that they are for."""

import asyncio
import contextlib
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.http.stream_reader import reading
from tests.support.model.model_server import ModelServer
from tests.support.programs.certificates import make_certificates
from tests.support.programs.external_programs import free_ports, requires_program
from tests.support.programs.nginx import Nginx
from tests.support.service import ROOT, Running, serving

pytestmark = pytest.mark.real_part

DEPLOY = ROOT / "chatbot" / "deploy"
HOST = "chat.example.org"  # in the proxies' files
PIECES = ("안", "녕하", "세요 ", "line\n\nbreak ", "!")
START_TIMEOUT_S = 30.0


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def put(text: str, **parts: tuple[str, str]) -> str:
    """`text` with each part, which must be there, replaced by another."""
    for name, (old, new) in parts.items():
        assert old in text, name
        text = text.replace(old, new)
    return text


# systemd


@requires_program("systemd-analyze")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "chatbot.service"
    unit.write_text(put((DEPLOY / unit.name).read_text(), program=("/opt/chatbot/bin/chatbot", sys.executable)))
    verified = run("systemd-analyze", "verify", str(unit), folder=tmp_path)
    ours = [line for line in verified.stderr.splitlines() if unit.name in line]  # not what it says of other units
    assert (ours, verified.returncode) == ([], 0)


# Prometheus


@pytest.fixture
def prometheus_files(tmp_path: Path) -> Path:
    """A folder with Prometheus' files, and a secret where the container would have it."""
    for name in ("prometheus.yml", "alerts.yml"):
        text = (DEPLOY / "prometheus" / name).read_text()
        (tmp_path / name).write_text(text.replace("/run/secrets/prometheus_secret", str(tmp_path / "secret")))
    (tmp_path / "secret").write_text("a-secret-of-a-test")
    return tmp_path


@requires_program("promtool")
def test_prometheus_takes_its_configuration_and_the_alerts(prometheus_files: Path) -> None:
    checked = run("promtool", "check", "config", "prometheus.yml", folder=prometheus_files)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(r"SUCCESS: \d+ rules found", checked.stdout)


SERIES = {  # by 15 s: healthy for five minutes, then in trouble
    'up{job="chatbot", instance="here"}': "1x20 0x40",
    'chatbot_model_available{instance="here"}': "1x20 0x40",
    'chatbot_llm_server_up{instance="here", server="gpu-1"}': "1x20 0x40",
    'chatbot_llm_server_requests_total{instance="here", server="gpu-1", outcome="completed"}': "0+10x60",
    'chatbot_llm_server_requests_total{instance="here", server="gpu-1", outcome="failed"}': "0x20 1+5x40",
    'chatbot_appends_refused_total{instance="here", reason="full"}': "0x20 1+1x40",
    'chatbot_replies_total{instance="here", outcome="complete"}': "0+10x60",
    'chatbot_replies_total{instance="here", outcome="failed"}': "0x20 1+5x40",
    'chatbot_loop_lag_seconds_bucket{instance="here", le="0.05"}': "0+100x20 2000x40",
    'chatbot_loop_lag_seconds_bucket{instance="here", le="0.1"}': "0+100x60",
    'chatbot_loop_lag_seconds_bucket{instance="here", le="+Inf"}': "0+100x60",
    'chatbot_anchor_contradicted{instance="here", target="0"}': "0x20 1x40",
    'chatbot_anchor_missing_events{instance="here", target="1"}': "0x20 9x40",
    'chatbot_anchor_age_seconds{instance="here", target="1"}': "60+15x20 8000+15x40",
}
RAISED = {  # by then, with these labels in addition to those of the rule
    "ChatbotDown": {"job": "chatbot", "instance": "here"},
    "ChatbotModelUnavailable": {"instance": "here"},
    "ChatbotModelServerDown": {"instance": "here", "server": "gpu-1"},
    "ChatbotModelServerFailing": {"instance": "here", "server": "gpu-1"},
    "ChatbotAppendsRefused": {"instance": "here", "reason": "full"},
    "ChatbotRepliesFailing": {"instance": "here"},
    "ChatbotEventLoopLate": {"instance": "here"},
    "ChatbotAnchorContradicted": {"instance": "here", "target": "0"},
    "ChatbotAnchorsLate": {"instance": "here", "target": "1"},
}


def expected(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """Of one rule: no alert while all is well, and one afterwards."""
    name, labels = rule["alert"], RAISED[rule["alert"]]
    summary = rule["annotations"]["summary"]
    for label, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
    raised = {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": {"summary": summary}}
    return [
        {"eval_time": "5m", "alertname": name, "exp_alerts": []},
        {"eval_time": "15m", "alertname": name, "exp_alerts": [raised]},
    ]


@requires_program("promtool")
def test_alerts_are_raised_by_what_they_name_and_not_by_a_healthy_service(prometheus_files: Path) -> None:
    rules = {
        one["alert"]: one for one in yaml.safe_load((prometheus_files / "alerts.yml").read_text())["groups"][0]["rules"]
    }
    test = {
        "interval": "15s",
        "input_series": [{"series": series, "values": values} for series, values in SERIES.items()],
        "alert_rule_test": [one for name in RAISED for one in expected(rules[name])],
    }
    stated = {"rule_files": ["alerts.yml"], "evaluation_interval": "15s", "tests": [test]}
    (prometheus_files / "tests.yml").write_text(yaml.safe_dump(stated))
    tested = run("promtool", "test", "rules", "tests.yml", folder=prometheus_files)
    assert tested.returncode == 0, tested.stdout + tested.stderr


# reverse proxies


@asynccontextmanager
async def nginx(folder: Path, service: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of nginx with our site, whose certificate it trusts."""
    proxy = Nginx(folder / "nginx", str(service.client.base_url))
    authority, _ = make_certificates(folder, HOST, "127.0.0.1")
    file, (secure,) = folder / "nginx" / "nginx.conf", free_ports(1)
    site = put(
        (DEPLOY / "nginx.conf").read_text(),
        service=("server 127.0.0.1:8080;", f"server {service.client.base_url.netloc.decode()};"),
        plain=("listen 80;", f"listen {proxy.url.removeprefix('http://')};"),
        tls=("listen 443 ssl", f"listen 127.0.0.1:{secure} ssl"),
        certificate=("/etc/nginx/tls/chat.example.org.pem", str(folder / "server.pem")),
        key=("/etc/nginx/tls/chat.example.org.key", str(folder / "server.pem")),
    )
    file.write_text(f"{file.read_text().partition('upstream')[0]}{site}}}")
    await proxy.start()
    try:
        url = f"https://127.0.0.1:{secure}"
        async with httpx.AsyncClient(base_url=url, verify=ssl.create_default_context(cafile=authority)) as client:
            plain = await client.get(f"{proxy.url}/docs", headers={"Host": HOST})
            assert (plain.status_code, plain.headers["location"]) == (308, f"https://{HOST}/docs")
            client.headers["Host"] = HOST
            yield client
    finally:
        await proxy.stop()


@asynccontextmanager
async def caddy(folder: Path, service: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of Caddy with our site, without TLS: it would ask the internet for a certificate."""
    (port,) = free_ports(1)
    site = put(
        (DEPLOY / "Caddyfile").read_text(),
        site=(f"{HOST} {{\n", f"http://{HOST}:{port} {{\n\tbind 127.0.0.1\n"),
        service=("127.0.0.1:8080", service.client.base_url.netloc.decode()),
    )
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{site}")
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "caddy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **home},
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"Host": HOST}) as client:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    assert process.returncode is None, (folder / "caddy.log").read_text()
                    with contextlib.suppress(httpx.TransportError):
                        await client.get("/livez")
                        break
                    await asyncio.sleep(0.02)
            yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("proxy", "scheme"),
    [
        pytest.param(nginx, "https", marks=requires_program("nginx"), id="nginx"),
        pytest.param(caddy, "http", marks=requires_program("caddy"), id="caddy"),
    ],
)
async def test_a_browser_behind_the_proxy_is_served_frame_by_frame_and_others_are_not(
    tmp_path: Path, model: ModelServer, proxy: Any, scheme: str
) -> None:
    model.script(pieces=PIECES, stepwise=True)
    async with serving(tmp_path, model.url, CHATBOT_SERVER_HOSTS=HOST) as service, proxy(tmp_path, service) as client:
        made = await client.post("/api/sessions", headers={"Origin": f"{scheme}://{HOST}"})
        assert made.status_code == 201, made.text
        foreign = await client.post("/api/sessions", headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert (await client.get("/metrics")).status_code == 404
        body = {"session_id": made.json()["session_id"], "message": "hi"}
        async with reading(client, "/api/chat/stream", body) as reader:
            await reader.until("start")
            for number in range(len(PIECES)):
                model.step()
                await reader.text("".join(PIECES[: number + 1]))
            await reader.until("done")
