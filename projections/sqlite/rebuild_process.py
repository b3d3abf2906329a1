"""Rebuild in a child process: a thread would contend for Python's lock with the service.

The child (`rebuild_child.py`) gets its task through standard input, where no other user sees a database's password, and
exits when that closes. It makes its file ready for the service that has the path open, and reports errors on standard
output.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct

from projections.errors import ProjectionError

CHILD_MODULE = "projections.sqlite.rebuild_child"
STOP_GRACE_S = 2.0


class RebuildFailed(ProjectionError):
    """The child process failed: the message says why. The log can still be folded in a thread."""


class RebuildTask(Struct, frozen=True):
    """The child's input. `log_location` is a path or a URL."""

    log_location: str
    is_file: bool
    path: str
    batch_max: int


async def rebuild_in_subprocess(log_location: Path | str, path: Path, batch_max: int) -> None:
    """Fold the log at `log_location` into a file that is made ready for `path`, in a child process that ends with this
    call.

    Raises RebuildFailed or OSError.
    """
    task = RebuildTask(str(log_location), isinstance(log_location, Path), str(path), batch_max)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", CHILD_MODULE),
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },  # this import path
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    child_input = cast(asyncio.StreamWriter, process.stdin)
    child_output = cast(asyncio.StreamReader, process.stdout)
    try:
        child_input.write(msgspec.json.encode(task) + b"\n")
        output = await child_output.read()
        if await process.wait():
            raise RebuildFailed(output.decode().strip() or f"exit status {process.returncode}")
    finally:
        child_input.close()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
