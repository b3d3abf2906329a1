"""`health`: what a container's health check says of a service that is ready, is not, or is not there."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chatbot.cli import health_check
from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.health_check import ANSWER_MAX_BYTES, check_health
from tests.support.command_processes import run_command
from tests.support.model.model_server import ModelServer
from tests.support.model.raw_model_server import RawServer
from tests.support.programs.external_programs import free_port
from tests.support.service import Running, program, serving


async def refused(host: str, port: int) -> str:
    with pytest.raises(CommandFailed) as caught:
        await asyncio.to_thread(check_health, host, port)
    assert caught.value.code == 1
    return str(caught.value)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """The port of a server that gives this answer once."""
    raw = RawServer()
    raw.answers = [answer]
    async with raw.listening():
        yield raw.port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
async def test_a_ready_service_is_healthy_at_the_address_it_listens_on(
    service: Running, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert await asyncio.to_thread(check_health, host, service.client.base_url.port or 0) == 0
    assert capsys.readouterr().out == "ready\n"


async def test_a_service_that_listens_on_all_ipv6_addresses_is_asked_at_the_loopback_one(
    tmp_path: Path, model: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path, model.url, HOST="::") as service:
        assert await asyncio.to_thread(check_health, "::", service.client.base_url.port or 0) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ready"


async def test_a_service_that_is_not_ready_is_refused_with_its_reason(service: Running) -> None:
    service.services.readiness.state = "draining"
    port = service.client.base_url.port or 0
    told = await refused("127.0.0.1", port)
    assert told == f"the service at 127.0.0.1 port {port} is not ready: draining, the service is shutting down"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 5\r\n\r\n<h1/>", "is not ready: HTTP 503"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n[]", "is not ready: HTTP 404"),
        (b"HTTP/1.1 500 Fault\r\n\r\n" + b"[" * (2 * ANSWER_MAX_BYTES), "is not ready: HTTP 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "is not ready: HTTP 200"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"up"}', "is not ready: up"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not answer: SSH-2.0-OpenSSH"),
        (b"", "does not answer: Remote end closed connection without response"),
    ],
    ids=["another-503", "another-program", "deep-json", "any-200", "another-health", "no-http", "closed"],
)
async def test_another_program_at_the_port_is_not_healthy(answer: bytes, told: str) -> None:
    async with answering(answer) as port:
        assert told in await refused("127.0.0.1", port)


async def test_a_service_that_accepts_and_says_nothing_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the system accepts, nobody answers
        told = await refused("127.0.0.1", listener.getsockname()[1])
    assert told.endswith("does not answer: no answer in 0.05 s")


async def test_a_port_that_the_system_chose_must_be_named() -> None:
    assert "--port" in await refused("127.0.0.1", 0)


async def test_the_command_exits_with_0_or_1_as_a_health_check_expects(tmp_path: Path, model: ModelServer) -> None:
    port = str(free_port())
    ended = await run_command(tmp_path, "health", PORT=port)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.error_line == f"error: the service at 127.0.0.1 port {port} does not answer: Connection refused"
    async with program(tmp_path, model.url, PORT=port):
        ended = await run_command(tmp_path, "health", "--port", port)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ready\n", "")
