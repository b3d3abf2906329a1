"""Standard streams that nobody reads, that are closed or full: the service goes on, a command ends in one sentence."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.log.log_files import log_with
from tests.support.programs.external_programs import free_port
from tests.support.service import ROOT, environment
from tests.support.worker_processes import until

FULL = Path("/dev/full")
NO_MODEL = "http://127.0.0.1:9"


def start(
    folder: Path, *arguments: str, redirect: str = "", pipe_bytes: int = -1, **settings: str
) -> "subprocess.Popen[bytes]":
    """The program as a shell starts it, with `redirect` of its streams; `pipe_bytes` may wait in each to be read."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")}
    line = f'exec "$@" {redirect}'
    return subprocess.Popen(
        ["/bin/sh", "-c", line, "sh", sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder,
        env={**inherited, **environment(folder, NO_MODEL, **settings)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pipesize=pipe_bytes,
    )


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


async def test_a_service_serves_and_drains_with_all_its_streams_closed(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with start(tmp_path, redirect="0<&- 1>&- 2>&-", PORT=str(port)) as process:
        try:
            await until(lambda: process.poll() is not None or is_ready(url))
            assert httpx.post(f"{url}/api/sessions", timeout=30).status_code == 201
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert (tmp_path / "chatbot.db").read_bytes()[:16] == b"SQLite format 3\0"


async def test_a_service_whose_log_nobody_reads_answers_and_drains(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with start(tmp_path, pipe_bytes=4096, PORT=str(port), DEBUG="true") as process:
        try:
            await until(lambda: process.poll() is not None or is_ready(url))
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                session_id = (await client.post("/api/sessions")).json()["session_id"]
                for _ in range(30):  # each logs a few hundred bytes
                    answer = await client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
                    assert answer.status_code == 503
                assert "\nchatbot_log_lines_dropped_total 0.0\n" in (await client.get("/metrics")).text
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("redirect", "arguments", "code", "said"),
    [
        ("1>&-", ("verify",), 2, "error: standard output is closed: the result has nowhere to go\n"),
        ("2>&-", ("verify",), 3, ""),
        ("1>/dev/full", ("config",), 1, "error: cannot write to standard output: No space left on device\n"),
        ("1>/dev/full 2>/dev/full", ("--help",), 0, ""),
        ("1>/dev/full", ("export",), 1, "error: cannot write the export, it is not whole: No space left on device\n"),
    ],
)
@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_command_ends_in_a_sentence(
    tmp_path: Path, redirect: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    if arguments == ("export",):
        asyncio.run(log_with(tmp_path / "chatbot.db", "one"))
    with start(tmp_path, *arguments, redirect=redirect) as process:
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.decode()) == (code, said)
