"""A projection runner under test: what it told its observer, and what its file holds."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from events.log import NotifyingLog
from projections.factory import create_runner
from projections.runner import ProjectionRunner, RunnerOptions

TABLES = ("sessions", "counts", "messages", "usage", "erased_usage")
OPTIONS = RunnerOptions(batch_max=50, retry_first_s=0.01, retry_max_s=0.05, file_check_s=0.0)


class RecordingObserver:
    """Everything that an observer is told."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.progressed: list[tuple[int, int]] = []
        self.reasons: list[str] = []
        self.failures: list[BaseException] = []
        self.adoptions: list[int] = []

    def applied(self, events: int, seconds: float) -> None:
        self.batches.append(events)

    def progress(self, position: int, head: int) -> None:
        self.progressed.append((position, head))

    def rebuilt(self, reason: str) -> None:
        self.reasons.append(reason)

    def adopted(self, position: int) -> None:
        self.adoptions.append(position)

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)


@asynccontextmanager
async def running(
    path: Path, log: NotifyingLog, told: RecordingObserver | None = None
) -> AsyncIterator[ProjectionRunner]:
    """A runner that has started, and is stopped at the end."""
    runner = create_runner(path, log, told, OPTIONS)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.stop()


async def follow(path: Path, log: NotifyingLog) -> RecordingObserver:
    """Let a runner fold everything and stop; what it said."""
    told = RecordingObserver()
    async with running(path, log, told) as runner:
        await runner.wait_for(log.head().position, timeout_s=20)
    return told


def contents(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The tables, labels left out: they are hashes under a key of the file's own."""
    with closing(sqlite3.connect(path)) as connection:
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in TABLES}
