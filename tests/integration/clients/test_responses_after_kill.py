"""Real clients of responses go on after the service was killed in the middle of a stream."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.model.model_server import ModelServer
from tests.support.programs.client_tools import FOLDER, NODE_PACKAGES
from tests.support.programs.openai_clients import SCRIPTS, needs_openai_clients
from tests.support.service import Program

pytestmark = [pytest.mark.real_part, pytest.mark.timeout(240), needs_openai_clients]
SCRIPT_NAMES = ("killed_python.txt", "killed_node.mjs")
PIECES = ("one ", "two ", "three ", "four ", "five.")


async def start_client(folder: Path, script: str, url: str) -> asyncio.subprocess.Process:
    program = "node" if script.endswith(".mjs") else str(FOLDER / "clients" / "bin" / "python")
    (folder / script).write_text((SCRIPTS / "openai" / script).read_text())
    environment = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none", "MODEL": "fake-model"}
    return await asyncio.create_subprocess_exec(
        program, script, cwd=folder, env={"PATH": "/usr/bin:/usr/local/bin:/bin", "HOME": str(folder), **environment},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def read_until(client: asyncio.subprocess.Process, word: str) -> None:
    assert client.stdout is not None
    while word not in (line := (await client.stdout.readline()).decode()):
        assert line, "the client has ended"


async def test_real_clients_resume_after_the_service_was_killed(tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(NODE_PACKAGES)
    async with ModelServer() as model:
        model.script(times=len(SCRIPT_NAMES), pieces=PIECES, hold_after=4)  # the fourth may go on, and is not sent
        first = await Program.start(tmp_path, model.url, CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX="3")
        clients = [await start_client(tmp_path, script, first.url) for script in SCRIPT_NAMES]
        for client in clients:
            await read_until(client, " 6")  # the third delta
        await first.kill()
        second = await Program.start(tmp_path, model.url, CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX="3")
        try:
            shown = await asyncio.gather(*(one.communicate(f"{second.url}/v1\n".encode()) for one in clients))
        finally:
            await second.kill()
    for client, (written, _) in zip(clients, shown, strict=True):
        assert client.returncode == 0, written.decode()
        check(**json.loads(written.decode().splitlines()[-1]))


def check(events: list[dict[str, Any]], late: list[dict[str, Any]]) -> None:
    """The whole stream of a reader that was cut off, and one that came later: the record may have less text."""
    for one in (events, late):
        assert [event["sequence_number"] for event in one] == list(range(len(one)))
        assert (one[-1]["type"], one[-1]["response"]["status"]) == ("response.failed", "failed")
    recorded = "".join(event["delta"] for event in late if event["type"] == "response.output_text.delta")
    sent = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert "".join(PIECES).startswith(sent)
    assert sent.startswith(recorded) or recorded.startswith(sent)
    assert events[-1]["response"] == late[-1]["response"]
