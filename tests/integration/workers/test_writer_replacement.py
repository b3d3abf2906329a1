"""Writer processes that end while they are replaced."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from chatbot.config.loader import load
from chatbot.workers.shared_resources import SharedResources
from chatbot.workers.worker_process import WriterProcess
from chatbot.workers.writer_supervisor import WriterSupervisor
from tests.support.service import ROOT, environment
from tests.support.worker_processes import until

pytestmark = pytest.mark.real_part

# Opens nothing. As a successor it is loaded only once it may be. It ends instead of opening as often as a file says.
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
        faults = pathlib.Path(sys.argv[1] + "-faults")
        if faults.exists() and (left := int(faults.read_text())):
            faults.write_text(str(left - 1))
            master.write(b'{"fault": "the disk is full"}\\n')
            sys.exit(3)
        master.write(b'{"ready": true, "version": ""}\\n')
    if order.get("drain"):
        break
"""


@asynccontextmanager
async def supervising(folder: Path) -> AsyncIterator[WriterSupervisor]:
    """A supervisor of such writers, of which one serves."""
    settings = load({}, environment=environment(folder, "http://127.0.0.1:1"), folder=ROOT).settings
    with ExitStack() as stack:
        command = [sys.executable, "-c", WRITER, str(folder / "go")]
        supervisor = WriterSupervisor(command, SharedResources(settings, stack), 60.0, _ignore)
        running = asyncio.create_task(supervisor.run())
        try:
            await until(lambda: supervisor.is_serving)
            yield supervisor
        finally:
            await supervisor.end()
            await asyncio.wait([running])


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
    async with supervising(tmp_path) as supervisor:
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


async def test_a_successor_that_cannot_open_the_log_is_an_outage_that_is_told_and_ends_by_itself(
    tmp_path: Path,
) -> None:
    (tmp_path / "go").touch()
    async with supervising(tmp_path) as supervisor:
        (tmp_path / "go-faults").write_text("3")
        with capture_logs() as logged:
            assert not await supervisor.replace()
            await until(lambda: supervisor.fault == "the disk is full")
            await until(lambda: supervisor.is_serving)
        assert [(line["log_level"], line["reason"]) for line in logged if line["event"] == "writer.lost"] == [
            ("critical", "the disk is full")
        ]
        assert supervisor.restarts == 3
        assert supervisor.exit_code is None
        assert await supervisor.replace()


def _ignore() -> None: ...
