"""Several workers as an operator has them, and what tests of them look at."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support.command_processes import is_alive
from tests.support.model.model_server import ModelServer
from tests.support.service import Program, program

WAIT_TIMEOUT_S = 60.0
TWO = ("--workers", "2")


@asynccontextmanager
async def two_workers(folder: Path, model: ModelServer, **settings: str) -> AsyncIterator[Program]:
    """Two workers and their master; none of them is left at the end."""
    async with program(folder, model.url, *TWO, **settings) as started:
        try:
            yield started
        finally:
            for pid in (started.process.pid, *pids(started)):  # the master first: it would replace them
                if is_alive(pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def pids(started: Program) -> list[int]:
    """Of all workers that have become ready so far."""
    return [line["pid"] for line in started.log("worker.ready")]


async def until(reached: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        while not reached():
            await asyncio.sleep(0.02)


async def create(client: httpx.AsyncClient) -> str:
    answer = await client.post("/api/sessions")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session_id"])


async def metrics(url: str) -> str:
    """Over a connection of its own, so of whichever worker takes it."""
    async with httpx.AsyncClient(base_url=url) as client:
        return (await client.get("/metrics")).text
