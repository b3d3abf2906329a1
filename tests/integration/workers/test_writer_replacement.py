"""A writer process that ends while its successor is being loaded."""

import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chatbot.config.loader import load
from chatbot.workers.shared_resources import SharedResources
from chatbot.workers.worker_process import WriterProcess
from chatbot.workers.writer_supervisor import WriterSupervisor
from tests.support.service import ROOT, environment
from tests.support.worker_processes import until

pytestmark = pytest.mark.real_part

# Opens nothing. As a successor it is loaded only once it may be.
WRITER = """
import json, os, pathlib, socket, sys, time
told = json.loads(os.environ["WORKER_INHERITANCE"])
master = socket.socket(fileno=told["control"]).makefile("rwb", buffering=0)
while told["writer"].get("is_successor") and not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
master.write(b'{"loaded": true}\\n')
while line := master.readline():
    order = json.loads(line)
    if order.get("open"):
        master.write(b'{"ready": true, "version": ""}\\n')
    if order.get("drain"):
        break
"""


async def test_the_successor_serves_if_the_writer_ends_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[WriterProcess] = []
    may_restart = asyncio.Event()
    real = WriterProcess.start

    async def start(*arguments: Any) -> WriterProcess:
        if len(started) == 2:  # the restart of the one that has ended
            await may_restart.wait()
        started.append(await real(*arguments))
        return started[-1]

    monkeypatch.setattr(WriterProcess, "start", start)
    settings = load({}, environment=environment(tmp_path, "http://127.0.0.1:1"), folder=ROOT).settings
    with ExitStack() as stack:
        shared = SharedResources(settings, stack)
        supervisor = WriterSupervisor([sys.executable, "-c", WRITER, str(tmp_path / "go")], shared, 60.0, _ignore)
        running = asyncio.create_task(supervisor.run())
        await until(lambda: supervisor.is_serving)
        replacing = asyncio.create_task(supervisor.replace())
        await until(lambda: len(started) == 2)
        os.kill(started[0].pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1)
        (tmp_path / "go").touch()
        await until(started[1].loaded.is_set)
        may_restart.set()
        async with asyncio.timeout(20):
            assert await replacing
            assert supervisor.is_serving
            assert await supervisor.replace()
        assert len(started) == 4
        await supervisor.end()
        await asyncio.wait([running])


def _ignore() -> None: ...
