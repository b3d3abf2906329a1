"""`python run.py <command>`, run to its end in a process of its own, as an operator does."""

import asyncio
import hashlib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.support.service import CHECKOUT, environment

NO_MODEL = "http://127.0.0.1:9"
COMMAND_TIMEOUT_S = 60.0


class CommandResult(Struct, frozen=True):
    """Of a command that has ended, without a traceback."""

    returncode: int
    stdout: str
    stderr: str

    def __post_init__(self) -> None:
        assert "Traceback" not in self.stderr, self.stderr

    @property
    def json(self) -> Any:
        assert self.returncode == 0, self.stderr
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def error_line(self) -> str:
        """The one sentence that it ended with."""
        (line,) = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        return line


def _environment(folder: Path, model_url: str, settings: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")}
    return {**inherited, **environment(folder, model_url, **settings)}


@asynccontextmanager
async def running_command(
    folder: Path, *arguments: str, model_url: str = NO_MODEL, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command while it runs on the log in `folder`; killed if it is left running."""
    process = await asyncio.create_subprocess_exec(
        *CHECKOUT,
        *arguments,
        cwd=folder,
        env=_environment(folder, model_url, settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run_command(folder: Path, *arguments: str, model_url: str = NO_MODEL, **settings: str) -> CommandResult:
    async with (
        running_command(folder, *arguments, model_url=model_url, **settings) as process,
        asyncio.timeout(COMMAND_TIMEOUT_S),
    ):
        stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return CommandResult(process.returncode, stdout.decode(), stderr.decode())


def run_command_blocking(folder: Path, *arguments: str, **settings: str) -> CommandResult:
    """The same for tests without an event loop."""
    ended = subprocess.run(
        [*CHECKOUT, *arguments],
        cwd=folder,
        env=_environment(folder, NO_MODEL, settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return CommandResult(ended.returncode, ended.stdout, ended.stderr)


def log_digest(folder: Path) -> str:
    """What the bytes of the log amount to: its file, and what its write-ahead log holds (after a reader, nothing)."""
    files = [folder / name for name in ("chatbot.db", "chatbot.db-wal")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()


def is_alive(pid: int) -> bool:
    return _read_process_state(pid)[0] != "Z"


def children_of(pid: int) -> list[int]:
    """Living processes whose parent is `pid`."""
    others = {int(one.name): _read_process_state(int(one.name)) for one in Path("/proc").glob("[0-9]*")}
    return [other for other, (state, parent) in others.items() if parent == pid and state != "Z"]


def _read_process_state(pid: int) -> tuple[str, int]:
    """One that has ended has state Z until it is reaped, and here from then on, too, even if just while it is read."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    return state, int(parent)
