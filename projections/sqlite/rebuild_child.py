"""The child process of `rebuild_process.py`: `python -m projections.sqlite.rebuild_child`.

Reads its task from standard input, folds the log with pauses, and exits when standard input
closes. Prints errors to standard output.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from events.factory import open_log
from projections.sqlite.rebuild import rebuild
from projections.sqlite.rebuild_process import RebuildTask

NICENESS = 10
BATCH_MAX = 1_000  # events
REST, REST_MAX_S = 4.0, 0.5  # seconds of rest for each second of work: the service needs the core and the disk, too


class RebuildThrottle:
    """Rests after each batch. Sleeps the whole process, which does nothing else."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def rest(self, _position: int) -> None:
        """Rest in proportion to the time since the last call."""
        time.sleep(min((time.monotonic() - self._began_s) * REST, REST_MAX_S))
        self._began_s = time.monotonic()


async def _fold(task: RebuildTask) -> None:
    log = await open_log(Path(task.log_location) if task.is_file else task.log_location, read_only=True)
    try:
        await rebuild(log, Path(task.path), min(task.batch_max, BATCH_MAX), RebuildThrottle().rest)
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
    """Run to the end; returns the exit status."""
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service handles a terminal's Ctrl-C
    try:
        asyncio.run(_run_until_stdin_closes())
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  the service then folds the log itself
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
