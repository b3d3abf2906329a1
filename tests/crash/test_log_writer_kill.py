"""kill -9 of the process that writes the log, while two others append to it: what they were told is true."""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.factory import WriterAddress
from events.integrity.chain_verifier import verify
from events.remote.shared_positions import SharedPositions, create_positions_file
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_texts import ALL, texts
from tests.support.log.log_writer import WriterOrders
from tests.support.nightly import scaled

ROOT = Path(__file__).resolve().parents[2]
KILLS = 3
KILL_AFTER_S = (0.02, 0.3)
CLIENTS = 2
APPENDER = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from events.errors import LogUnavailable
from events.factory import WriterAddress, open_log
from tests.support.log.sample_events import ASKED, posted

async def write(place, writer, name):
    log = await open_log(place, writer=writer)
    is_over = False
    async def one(stream_id):
        version = 0
        while not is_over:
            text = f"{stream_id}:{version}"
            (event,) = await log.append(stream_id, version, [posted(text)], ASKED)
            assert (await log.latest()).position >= event.position
            print(json.dumps([text, event.position]), flush=True)
            version += 1
    tasks = [asyncio.create_task(one(f"{name}-{number}")) for number in range(8)]
    print(json.dumps("open"), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    is_over = True
    await asyncio.gather(*tasks)
    await log.close()

asyncio.run(write(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=WriterAddress), sys.argv[3]))
"""


def started(arguments: list[str], *inherited: int) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdin=pipe, stdout=pipe, text=True, pass_fds=inherited
    )


def line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return process.stdout.readline()


def end(process: subprocess.Popen[str]) -> str:
    """Let it end, and return the rest of what it has said."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    said = process.stdout.read()
    assert process.wait(30) == 0
    return said


@contextmanager
def killed_at_the_end(processes: list[subprocess.Popen[str]]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.mark.parametrize("seed", range(scaled(1)))
def test_a_writer_that_is_killed_under_appends_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    rng, path, descriptor = random.Random(seed), tmp_path / "log.db", create_positions_file()
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/writer.sock"
        listener.bind(address)
        listener.listen()
        orders = msgspec.json.encode(WriterOrders(str(path), listener.fileno(), descriptor)).decode()

        def start_writer() -> subprocess.Popen[str]:
            started_now = started(["-m", "tests.support.log.log_writer", orders], listener.fileno(), descriptor)
            running.append(started_now)
            assert line(started_now) == "ready\n"
            return started_now

        running: list[subprocess.Popen[str]] = []
        with killed_at_the_end(running):
            writer = start_writer()
            found = msgspec.json.encode(WriterAddress(address, descriptor)).decode()
            appenders = [
                started(["-c", APPENDER, str(path), found, f"client{number}"], descriptor) for number in range(CLIENTS)
            ]
            running += appenders
            for appender in appenders:
                assert line(appender) == '"open"\n'
            for _ in range(KILLS):
                asyncio.run(asyncio.sleep(rng.uniform(*KILL_AFTER_S)))
                writer.kill()
                writer.wait()
                writer = start_writer()
            acknowledged = [json.loads(said) for appender in appenders for said in end(appender).splitlines()]
            end(writer)
            head = SharedPositions(descriptor).head()
    os.close(descriptor)
    asyncio.run(check(path, acknowledged, head.position))


async def check(path: Path, acknowledged: list[tuple[str, int]], published: int) -> None:
    log = await SqliteLog.open(path, read_only=True)
    try:
        recorded = await log.read_all(limit=ALL)
        found = [str(text) for text in texts(recorded)]
        assert max(Counter(found).values()) == 1, "an append is recorded twice"
        assert len(acknowledged) == len(found) == log.head().position == published
        for text, position in acknowledged:
            assert found[position - 1] == text, "an acknowledged append is lost"
        assert (await verify(log))[1] is None
    finally:
        await log.close()
