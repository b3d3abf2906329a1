"""A copy of a log that is in use, page by page, as it was at one moment: SQLite's online backup.

The source is read in one transaction. Without it each append of the service would start the copying anew, and beside a
busy one it would never end; with it the write-ahead log cannot be emptied before the copy is done, so it grows
meanwhile, and an erasure waits (`chatbot_erasure_pending`). All calls block: for a thread.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

PAGES = 2_000  # copied at once, 8 MiB: between two steps a stop is heard
PAUSE_S = 0.002  # between steps, so that the disk is the service's, too
BUSY_TIMEOUT_S = 5.0


class BackupStopped(Exception):
    """The copying was told to stop."""


def copy_log(source: Path, target: Path, stop: threading.Event, progress: Callable[[int, int], None]) -> None:
    """Copy the log in `source` into the empty or missing file `target`; `progress` hears pages done and in all.

    The copy needs no file beside it. Raises Stopped once `stop` is set, sqlite3.Error, OSError.
    """

    def step(_: int, left: int, pages: int) -> None:
        progress(pages - left, pages)
        if stop.is_set():
            raise BackupStopped

    uri = f"{source.resolve().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)) as log,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        log.execute("BEGIN")
        log.execute("SELECT 1 FROM sqlite_schema").fetchall()  # the moment that is copied
        log.backup(copy, pages=PAGES, progress=step, sleep=PAUSE_S)
        copy.execute("PRAGMA journal_mode=DELETE")  # a copy in WAL mode could not be read from a read-only disk
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
