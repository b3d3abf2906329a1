"""Online backup: a consistent copy of a log that is in use, page by page (SQLite's backup API).

The source is read in one transaction. Without it each append of the service would restart the copying, which then might
never end; with it the write-ahead log cannot be emptied before the copy is done, so it grows in the meantime, and an
erasure waits (`chatbot_erasure_pending`). Calls block: to be called in a thread.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

PAGES = 2_000  # copied in one step, 8 MiB: a stop takes effect between two steps
PAUSE_S = 0.002  # between steps, so that the service can use the disk
BUSY_TIMEOUT_S = 5.0


class BackupStopped(Exception):
    """The copying was cancelled."""


def copy_log(source: Path, target: Path, stop: threading.Event, progress: Callable[[int, int], None]) -> None:
    """Copy the log in `source` into the empty or missing file `target`.

    `progress` is called with the pages done and the pages in all. The copy is a single file without a write-ahead file.
    Raises BackupStopped once `stop` is set, sqlite3.Error, OSError.
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
        log.execute("SELECT 1 FROM sqlite_schema").fetchall()  # begins the read transaction
        log.backup(copy, pages=PAGES, progress=step, sleep=PAUSE_S)
        copy.execute("PRAGMA journal_mode=DELETE")  # a copy in WAL mode could not be read from a read-only disk
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
