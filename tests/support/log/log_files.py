"""Log files as other programs and bad disks leave them."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from events.integrity.chain_verifier import ChainFault, ChainVerifier
from events.log_observer import NoObserver
from events.options import LogOptions
from events.record import Head, StoredRow
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.log.sample_events import ASKED, posted

SHORT_TIMEOUTS = LogOptions(busy_timeout_s=0.2, erase_wait_s=0.3)


class FilesLostObserver(NoObserver):
    """Keeps why files of the log were found lost."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def files_lost(self, reason: str) -> None:
        self.reasons.append(reason)


def first_fault(rows: Iterable[StoredRow], expected_head: Head | None = None) -> ChainFault | None:
    """The first fault of a whole log, None if it is as it was recorded."""
    walk = ChainVerifier(expected_head)
    for row in rows:
        fault = walk.check(row)
        if fault is not None:
            return fault
    return walk.finish()


async def log_with(path: Path, *texts: str) -> None:
    """A closed log in `path` with `texts` in stream `a`."""
    log = await SqliteLog.open(path)
    for version, text in enumerate(texts):
        await log.append("a", version, [posted(text)], ASKED)
    await log.close()


def foreign(path: Path, *statements: str) -> sqlite3.Connection:
    """Another program's connection, after `statements`."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for statement in statements:
        connection.execute(statement).fetchall()
    return connection


@contextmanager
def small_disk(directory: Path, kib: int) -> Iterator[Path]:
    """A disk of memory of its own in `directory`; skips the test where mounting one is not permitted."""
    directory.mkdir()
    mount(f"size={kib}k", directory)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)  # lazy: a failed test may have left a file open


def mount(options: str, directory: Path) -> None:
    """Mount a disk of memory, or mount it again with other options."""
    if shutil.which("mount") is None:
        pytest.skip("no mount command here")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"mounting a disk is not permitted here: {done.stderr.strip()}")


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Nothing in `directory` can be written meanwhile. Root may write any file: for it the disk is made read-only."""
    if os.geteuid() == 0:
        mount("remount,ro", directory)
        yield
        return
    for path in (*directory.iterdir(), directory):
        path.chmod(0o555)
    try:
        yield
    finally:
        directory.chmod(0o755)


def fill(directory: Path) -> Path:
    """Take all the room there is."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast
