"""A whole log folded in a process of its own: a thread would take Python's lock from whoever serves clients.

The process is told on its standard input, where no other user sees a database's password, and lives no longer than
that stays open. It does what `rebuild` does, and offers its file to the service that has the path open. What stands in
its way it says on its standard output.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct

from events.factory import open_log
from projections.errors import ProjectionError
from projections.sqlite.rebuild import rebuild

NICENESS = 10
STOP_GRACE_S = 2.0
BATCH_MAX = 1_000  # events
REST, REST_MAX_S = 4.0, 0.5  # seconds of rest for each of work: core and disk are the service's, too


class RebuildThrottle:
    """Rests after each batch. Nobody else is in this process, so all of it may sleep."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def reach(self, _position: int) -> None:
        """A batch is done."""
        time.sleep(min((time.monotonic() - self._began_s) * REST, REST_MAX_S))
        self._began_s = time.monotonic()


class RebuildFailed(ProjectionError):
    """The process ended without a file to offer: says why. The log can still be folded in a thread."""


class RebuildTask(Struct, frozen=True):
    """What the process is told: `log` is a path or a URL."""

    log: str
    is_file: bool
    path: str
    batch_max: int


async def rebuild_in_subprocess(log: Path | str, path: Path, batch_max: int) -> None:
    """Fold `log` into a file that is offered for `path`, in another process, which ends with this call.

    Raises FoldingFailed or OSError.
    """
    task = RebuildTask(str(log), isinstance(log, Path), str(path), batch_max)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", __name__),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # it finds what this one finds
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    child_input, child_output = (
        cast(asyncio.StreamWriter, process.stdin),
        cast(asyncio.StreamReader, process.stdout),
    )  # as asked for
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


async def _fold(task: RebuildTask) -> None:
    log = await open_log(Path(task.log) if task.is_file else task.log, read_only=True)
    try:
        await rebuild(log, Path(task.path), min(task.batch_max, BATCH_MAX), RebuildThrottle().reach)
    finally:
        await log.close()


async def _run_until_stdin_closes() -> None:
    parent_input = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(parent_input), sys.stdin)
    folding = asyncio.create_task(_fold(msgspec.json.decode(await parent_input.readline(), type=RebuildTask)))
    parent_gone = asyncio.create_task(parent_input.read())
    await asyncio.wait((folding, parent_gone), return_when=asyncio.FIRST_COMPLETED)
    parent_gone.cancel()
    if not folding.done():
        folding.cancel()
    await folding


def main() -> int:
    """Its exit status."""
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the service's to handle
    try:
        asyncio.run(_run_until_stdin_closes())
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  whatever it is, the service goes on without
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
