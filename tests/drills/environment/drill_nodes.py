"""The nodes under test: `python run.py`, each with its own address, folder and settings, over one log."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
from msgspec import Struct

from tests.drills.environment.drill_processes import ManagedProcess
from tests.drills.environment.network_namespaces import Endpoint
from tests.drills.load.client_requests import ROOT_SECRET, SHARED_SECRET
from tests.drills.rules.rules_keys import SHARED_OWNER
from tests.support.service import ROOT, environment

READY_TIMEOUT_S = 30.0
SECRET = "a-secret-that-the-nodes-share"
SETTINGS = {  # quicker than in earnest, so that a short drill sees each of them happen
    "CHATBOT_API_KEYS": f"root:{ROOT_SECRET},{SHARED_OWNER}:{SHARED_SECRET}",
    "CHATBOT_AUTH_ADMINS": "root",
    "CHATBOT_AUTH_AUDITORS": "root",
    "CHATBOT_AUTH_FAILURES_PER_MINUTE": "1000000",  # all clients have one address, and try keys that have ended
    "CHATBOT_NODES_SECRET": SECRET,
    "CHATBOT_NODES_FAILURE_TIMEOUT_S": "3",
    "CHATBOT_NODES_PROBE_TIMEOUT_S": "0.5",
    "CHATBOT_NODES_SWEEP_INTERVAL_S": "0.5",
    "CHATBOT_DATABASE_BUSY_TIMEOUT_S": "3",
    "CHATBOT_SERVER_DRAIN_GRACE_S": "1",
    "CHATBOT_SERVER_STREAM_CLOSE_TIMEOUT_S": "1",
    "CHATBOT_SESSIONS_IDLE_TIMEOUT_S": "4",
    "CHATBOT_SESSIONS_COMMAND_TIMEOUT_S": "8",
    "CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "1",
    "CHATBOT_SESSIONS_ACCESS_RESOLUTION_S": "86400",  # so that looking changes nothing
    "CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.2",
    "CHATBOT_LLM_BETWEEN_TOKENS_TIMEOUT_S": "10",
    "CHATBOT_STREAM_SSE_RETRY_S": "0.2",
    "CHATBOT_STREAM_SSE_PING_S": "2",
    "CHATBOT_LOGGING_FORMAT": "json",
    "PYTHONFAULTHANDLER": "1",  # one that hangs is asked with SIGABRT where it is
}


class Node(Struct):
    """One node: where clients reach it, and how it is run. `workers` serve; one has no master."""

    name: str
    url: str
    part: ManagedProcess
    workers: int = 1

    def processes(self, role: str) -> list[int]:
        """Of its master: `writer`, the one that has the log's write side, or `worker`, those that serve."""
        return [pid for pid in self.part.children() if _role_of(pid) == role]

    async def start(self) -> None:
        """Started and ready. Raises AssertionError with the end of its log."""
        await self.part.start()
        await self.ready()

    async def is_up(self) -> bool:
        """Whether it answers at all: before that it knows no signals yet."""
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(base_url=self.url, timeout=2) as client:
                return (await client.get("/livez")).status_code == 200
        return False

    async def ready(self) -> None:
        """Raises AssertionError with the end of its log when it does not become so."""
        until_s = time.monotonic() + READY_TIMEOUT_S
        async with httpx.AsyncClient(base_url=self.url, timeout=2) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        return
                assert self.part.pid is not None, f"{self.name} ended: {self.tail()}"
                if time.monotonic() > until_s:
                    await self.part.stop(signal.SIGABRT)
                    raise AssertionError(f"{self.name} is not ready; it was at: {self.tail()}")
                await asyncio.sleep(0.05)

    def tail(self, characters: int = 3000) -> str:
        return self.part.log.read_text(errors="replace")[-characters:]


def _role_of(pid: int) -> str:
    """As the master tells it to the process."""
    with suppress(OSError):
        return "writer" if b'"role":"writer"' in Path(f"/proc/{pid}/environ").read_bytes() else "worker"
    return ""


def make_node(name: str, folder: Path, endpoint: Endpoint, place: str, model_url: str, *, workers: int = 1) -> Node:
    """A node that keeps its projections in `folder`, and the log at `place` (DATABASE_URL). Not started."""
    folder.mkdir()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CHATBOT_")}
    settings = {
        **SETTINGS,
        "HOST": endpoint.address,
        "PORT": str(endpoint.port),
        "DATABASE_URL": place,
        "CHATBOT_DATABASE_PROJECTIONS_PATH": str(folder / "projections.db"),
        "CHATBOT_NODES_LISTEN_HOST": endpoint.address,
        "CHATBOT_NODES_LISTEN_PORT": str(endpoint.peers_port),
    }
    command = (*endpoint.command_prefix, sys.executable, str(ROOT / "run.py"), "--workers", str(workers))
    part = ManagedProcess(
        command, folder, folder / "node.log", {**inherited, **environment(folder, model_url, **settings)}
    )
    return Node(name, f"http://{endpoint.address}:{endpoint.port}", part, workers)
