"""A master that replaces its workers while they end by themselves."""

import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from chatbot.config.load import load
from chatbot.workers.master import Master
from chatbot.workers.shared import Shared
from tests.support.service import ROOT, environment
from tests.support.workers import until

pytestmark = pytest.mark.real_part

# Reports itself ready, in the third slot only once it may, and ends when it is told to.
WORKER = """
import json, os, pathlib, socket, sys, time
told = json.loads(os.environ["WORKER_INHERITANCE"])
master = socket.socket(fileno=told["control"]).makefile("rwb", buffering=0)
while told["slot"] == 3 and not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
master.write(b'{"ready":"node"}\\n')
while line := master.readline():
    order = json.loads(line)
    if order.get("drain") or order.get("retire"):
        break
"""


async def test_a_worker_that_ends_while_its_successor_starts_does_not_stop_the_roll(tmp_path: Path) -> None:
    may_start = tmp_path / "go"
    wanted = environment(tmp_path, "http://127.0.0.1:1", CHATBOT_SERVER_WORKERS="2")
    settings = load({}, environment=wanted, folder=ROOT).settings
    with ExitStack() as stack:
        master = Master([sys.executable, "-c", WORKER, str(may_start)], settings, Shared(settings, stack))
        living = asyncio.create_task(master._live())
        await until(lambda: master._serving() == 2)
        old = {worker.pid for worker in master._workers.values()}
        first = master._workers[1].pid
        master._roll_wanted.set()
        await until(lambda: 3 in master._workers)
        os.kill(first, signal.SIGKILL)
        await until(lambda: 1 in master._workers and master._workers[1].pid != first and master._is_ready(1))
        may_start.touch()
        await until(lambda: master._serving() == len(master._workers) == 2 and not old & _pids(master))
        living.cancel()
        master._stop.set()
        await master._end_all()
        assert not master._workers


def _pids(master: Master) -> set[int]:
    return {worker.pid for worker in master._workers.values()}
