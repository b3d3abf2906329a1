"""A master that replaces its workers while they end by themselves."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from chatbot.config.loader import load
from chatbot.runtime.service_manager import SystemdNotifier
from chatbot.workers.master import Master
from chatbot.workers.shared_resources import SharedResources
from tests.support.programs.notify_socket import notify_socket
from tests.support.service import ROOT, environment
from tests.support.worker_processes import WAIT_TIMEOUT_S, until

pytestmark = pytest.mark.real_part

# Reports itself ready, in the third slot only once it may, and ends when it is told to; or at once, once, at a fault.
# As the writer it reports all the time, and opens nothing.
WORKER = """
import json, os, pathlib, socket, sys, time
told = json.loads(os.environ["WORKER_INHERITANCE"])
master = socket.socket(fileno=told["control"]).makefile("rwb", buffering=0)
if told.get("role") == "writer":
    import threading
    def say(**status):
        master.write(json.dumps(status).encode() + b"\\n")
    def report():
        while True:
            say()
            time.sleep(0.1)
    say(loaded=True)
    threading.Thread(target=report, daemon=True).start()
    while line := master.readline():
        order = json.loads(line)
        if order.get("open"):
            say(ready=True, version="reads of the writer")
        if order.get("drain"):
            break
    os._exit(0)
faulty = pathlib.Path(sys.argv[2])
if faulty.exists():
    faulty.unlink()
    sys.exit(1)
while told["slot"] == 3 and not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
master.write(json.dumps({"ready": "node", "version": "reads of " + str(told["slot"])}).encode() + b"\\n")
while line := master.readline():
    order = json.loads(line)
    if order.get("versions"):
        pathlib.Path(sys.argv[1]).with_name("versions-" + str(told["slot"])).write_text(json.dumps(order["versions"]))
    if order.get("drain") or order.get("retire"):
        break
"""


@asynccontextmanager
async def serving(folder: Path, notified: str = "") -> AsyncIterator[Master]:
    """A master of two such workers; `notified` is its service manager's socket."""
    wanted = environment(folder, "http://127.0.0.1:1", CHATBOT_SERVER_WORKERS="2")
    settings = load({}, environment=wanted, folder=ROOT).settings
    command = [sys.executable, "-c", WORKER, str(folder / "go"), str(folder / "fault")]
    with ExitStack() as stack:
        manager = SystemdNotifier(notified, structlog.get_logger("run"))
        master = Master(command, settings, SharedResources(settings, stack), manager)
        living = asyncio.create_task(master._serve())
        try:
            await until(lambda: master._serving() == 2)
            yield master
        finally:
            (folder / "go").touch()
            living.cancel()
            master._stop.set()
            await master._end_all()
        assert not master._workers


async def test_a_worker_that_ends_while_its_successor_starts_does_not_stop_the_roll(tmp_path: Path) -> None:
    async with serving(tmp_path) as master:
        old, first = _pids(master), master._workers[1].pid
        master._roll_wanted.set()
        await until(lambda: 3 in master._workers)
        os.kill(first, signal.SIGKILL)
        await until(lambda: 1 in master._workers and master._workers[1].pid != first and master._is_ready(1))
        (tmp_path / "go").touch()
        await until(lambda: master._serving() == len(master._workers) == 2 and not old & _pids(master))


async def test_a_worker_that_came_with_a_roll_is_started_again_as_often_as_any(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    async with serving(tmp_path) as master:
        old = _pids(master)
        master._roll_wanted.set()
        await until(lambda: master._serving() == len(master._workers) == 2 and not old & _pids(master))
        (tmp_path / "fault").touch()
        slot, worker = next(iter(master._workers.items()))
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: slot in master._workers and master._workers[slot].pid != worker.pid)
        await until(lambda: not (tmp_path / "fault").exists() and master._serving() == 2)


async def test_each_worker_hears_what_all_of_them_read(tmp_path: Path) -> None:
    def told(slot: int) -> list[str]:
        file = tmp_path / f"versions-{slot}"
        return sorted(json.loads(file.read_text() or "[]")) if file.exists() else []

    async with serving(tmp_path):
        await until(lambda: told(1) == told(2) == ["reads of 1", "reads of 2", "reads of the writer"])


async def test_the_service_manager_is_told_of_the_start_of_reloads_and_of_the_end(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with notify_socket() as socket:
        async with serving(tmp_path, socket.address) as master:
            await until(lambda: socket.received() == ["READY"])
            master._roll_wanted.set()
            await until(lambda: socket.received() == ["READY", "RELOADING", "READY"])
            assert master._serving() == 2
        assert socket.received()[3:] == ["STOPPING"]


def _pids(master: Master) -> set[int]:
    return {worker.pid for worker in master._workers.values()}


async def test_a_process_that_cannot_even_be_started_ends_the_service_with_the_cause(tmp_path: Path) -> None:
    wanted = environment(tmp_path, "http://127.0.0.1:1", CHATBOT_SERVER_WORKERS="2")
    settings = load({}, environment=wanted, folder=ROOT).settings
    with ExitStack() as stack:
        manager = SystemdNotifier("", structlog.get_logger("run"))
        master = Master(["\0"], settings, SharedResources(settings, stack), manager)
        with capture_logs() as logs, pytest.raises(ValueError, match="null byte"):
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                await master.run()
    (failed,) = (line for line in logs if line["event"] == "workers.failed")
    assert (failed["task"], "null byte" in failed["reason"]) == ("writer", True)
