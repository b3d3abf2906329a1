"""Commands of the record as a person runs them, each in a process of its own, beside whatever else runs.

`python run.py <command>` run to its end, as an operator does.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.support.service import ROOT, environment

NO_MODEL = "http://127.0.0.1:9"


class CommandResult(Struct, frozen=True):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@asynccontextmanager
async def started(
    folder: Path, *arguments: str, model_url: str = NO_MODEL, **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command while it runs; killed if it is left running."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "run.py"),
        *arguments,
        cwd=folder,
        env={**inherited, **environment(folder, model_url, **settings)},
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
    """The command, run to its end."""
    async with started(folder, *arguments, model_url=model_url, **settings) as process, asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return CommandResult(process.returncode, out.decode(), err.decode())


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


def command(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """On the log in `folder`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment(folder, "http://127.0.0.1:9"), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that it ended with."""
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in ended.stderr
    return line
