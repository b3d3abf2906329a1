"""One writing process per database, and any number of readers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatbot.cli.remedies import with_remedy
from events.errors import LogInUse, LogUnavailable
from events.integrity.chain_verifier import verify
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.log_files import log_with
from tests.support.log.sample_events import ASKED, deleted, posted

SERVER = """
import asyncio, sys
from events.storage.sqlite.sqlite_log import SqliteLog
async def serve():
    log = await SqliteLog.open(sys.argv[1])
    print("open", flush=True)
    await log.wait(10**9)
asyncio.run(serve())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that serves this test's log."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "log.db")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


async def test_a_second_server_is_refused_with_the_first_ones_process_id(
    tmp_path: Path, server: subprocess.Popen[str]
) -> None:
    (tmp_path / "alias.db").symlink_to(tmp_path / "log.db")
    for path in (tmp_path / "log.db", tmp_path / "alias.db"):
        with pytest.raises(LogInUse) as refused:
            await SqliteLog.open(path)
        assert with_remedy(refused.value) == (
            f"database {tmp_path / 'log.db'} is in use by process {server.pid}; stop it or choose another DATABASE_URL"
        )


async def test_kill_9_lets_go_of_the_lock(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGKILL)
    server.wait()
    await log_with(tmp_path / "log.db", "1")


async def test_one_process_cannot_open_a_log_twice_either(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    with pytest.raises(LogInUse, match=rf"process {os.getpid()}$"):
        await SqliteLog.open(tmp_path / "log.db")
    await log.append("a", 0, [posted("still here")], ASKED)
    await log.close()
    await log_with(tmp_path / "log.db")


async def test_offline_commands_read_beside_a_server_and_write_nothing(tmp_path: Path) -> None:
    server = await SqliteLog.open(tmp_path / "log.db")
    await server.append("a", 0, [posted("1")], ASKED)
    reader = await SqliteLog.open(tmp_path / "log.db", read_only=True)
    await server.append("a", 1, [posted("2")], ASKED)
    assert len(await reader.read_all(limit=10)) == 2
    assert (await verify(reader))[1] is None
    for write in (reader.append("a", 2, [posted("x")], ASKED), reader.erase("a", 2, deleted(), ASKED), reader.wait(1)):
        with pytest.raises(LogUnavailable, match="reading only"):
            await write
    await reader.close()
    await server.append("a", 2, [posted("3")], ASKED)
    await server.close()


async def test_reading_a_closed_log_changes_no_byte_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await log_with(path, "1", "2")
    before = path.read_bytes()
    reader = await SqliteLog.open(path, read_only=True)
    assert len(await reader.read("a", limit=10)) == 2
    await reader.close()
    assert path.read_bytes() == before
