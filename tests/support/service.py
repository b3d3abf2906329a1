"""The service under test: in this process (`serving`), or as the real program in a process of its own (`Program`)."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web
from blockbuster import blockbuster_ctx

import chatbot
from chatbot.api.app import build_app, listen
from chatbot.api.services import Services
from chatbot.cli.startup import start_up
from chatbot.config.loader import load
from chatbot.wiring import compose
from chatbot.workers.server_sockets import bind_sockets

ROOT = Path(chatbot.__file__).resolve().parents[1]
START_TIMEOUT_S = 60.0
CHECKOUT = (sys.executable, str(ROOT / "run.py"))


def environment(folder: Path, model_url: str, **settings: str) -> dict[str, str]:
    """Settings of a service that keeps its files in `folder`."""
    return {
        "DATABASE_URL": str(folder / "chatbot.db"),
        "PORT": "0",
        "LLM_SERVER_URL": model_url,
        "CHATBOT_LLM_PROVIDER": "openai",
        "CHATBOT_LLM_RETRY_BACKOFF_S": "0.01",
        "CHATBOT_LLM_HEALTH_INTERVAL_S": "0.2",
        "CHATBOT_LOGGING_FORMAT": "json",
        "CHATBOT_LOGGING_ACCESS_LOG": "false",  # a line for each of a test's requests hides the others
        "CHATBOT_DATABASE_ERASE_RESERVE_BYTES": "0",  # thousands of tests leave their folders for a while
        "SSL_CERT_FILE": "/nowhere",  # the system's certificates take each program 40 ms, and no test needs them
        **settings,
    }


class Running:
    """A service in this process: its parts, its application, and a client of its real socket."""

    def __init__(self, services: Services, app: web.Application, client: httpx.AsyncClient) -> None:
        self.services = services
        self.app = app
        self.client = client

    @property
    def url(self) -> str:
        return str(self.client.base_url)

    async def session(self, **body: Any) -> str:
        answer = await self.client.post("/api/sessions", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["session_id"])

    async def chat(self, session_id: str, message: str, **body: Any) -> dict[str, Any]:
        answer = await self.client.post("/api/chat", json={"session_id": session_id, "message": message, **body})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def history(self, session_id: str, **query: Any) -> dict[str, Any]:
        answer = await self.client.get(f"/api/sessions/{session_id}/messages", params=query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@asynccontextmanager
async def serving(folder: Path, model_url: str, **settings: str) -> AsyncIterator[Running]:
    """The whole service on a free port, in this process, in which its code may not block any more."""
    async with started(folder, model_url, **settings) as running:
        with unblocked():
            yield running


@contextmanager
def unblocked() -> Iterator[None]:
    """From here on a blocking call of ours on the event loop (file, socket, sleep, SQLite) fails the test."""
    with blockbuster_ctx(["events", "projections", "chatbot"]) as watch:
        for name in ("os.stat", "os.access", "os.path.abspath", "os.getcwd", "io.TextIOWrapper.read"):
            # asyncpg looks for certificates and a password file before each of its few connections
            watch.functions[name].can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")
        yield


@asynccontextmanager
async def started(folder: Path, model_url: str, **settings: str) -> AsyncIterator[Running]:
    """The whole service on a free port, in this process."""
    configuration = load({}, environment=environment(folder, model_url, **settings), folder=ROOT)
    server = configuration.settings.server
    async with AsyncExitStack() as stack:
        services = await compose(configuration.settings, stack)
        app = build_app(services)
        listener, url = await listen(app, bind_sockets(server.host, server.port))
        stack.push_async_callback(listener.cleanup)
        await start_up(services, url)
        await services.health.refresh()
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        yield Running(services, app, client)


class Program:
    """`python run.py` as a process of its own. `url` is known once it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.output: list[str] = []
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, folder: Path, model_url: str, *arguments: str, command: Sequence[str] = CHECKOUT, **settings: str
    ) -> "Program":
        """Started and ready. Raises AssertionError with the program's output when it ends instead."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")}
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            cwd=folder,
            env={**inherited, **environment(folder, model_url, **settings)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        program = cls(process, "")
        program._reader = asyncio.create_task(program._read())
        async with asyncio.timeout(START_TIMEOUT_S):
            while not program.url and process.returncode is None:
                await asyncio.sleep(0.01)
        if not program.url:
            await program.ended()
            raise AssertionError("".join(program.output))
        return program

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            text = line.decode()
            self.output.append(text)
            if '"server.ready"' in text:
                self.url = json.loads(text)["url"]

    def log(self, event: str) -> list[dict[str, Any]]:
        """The program's log lines with this event name."""
        return [line for line in self.lines if line.get("event") == event]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All of the program's log lines."""
        return [json.loads(line) for line in self.output if line.startswith("{")]

    async def ended(self, timeout_s: float = 20.0) -> int:
        """The exit code, once the process has ended and all of its output is read."""
        async with asyncio.timeout(timeout_s):
            code = await self.process.wait()
            if self._reader is not None:
                await self._reader
        return code

    async def kill(self) -> None:
        """kill -9, at this very instant."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    async def stop(self) -> int:
        """Let it drain."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()


@asynccontextmanager
async def program(
    folder: Path, model_url: str, *arguments: str, command: Sequence[str] = CHECKOUT, **settings: str
) -> AsyncIterator[Program]:
    """The real program; killed at the end if the test has not stopped it."""
    started = await Program.start(folder, model_url, *arguments, command=command, **settings)
    try:
        yield started
    finally:
        await started.kill()


def frames(text: str) -> list[dict[str, Any]]:
    """The JSON frames of an event stream, each with its `id` as `cursor`; [DONE] as {"type": "done"}."""
    found: list[dict[str, Any]] = []
    for block in text.split("\n\n"):
        lines = dict(re.findall(r"^(id|data): (.*)$", block, re.MULTILINE))
        if lines.get("data") == "[DONE]":
            found.append({"type": "done"})
        elif "data" in lines:
            found.append({**json.loads(lines["data"]), "cursor": lines.get("id")})
    return found
