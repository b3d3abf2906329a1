"""A mutex of the processes that write to one SQLite file.

SQLite itself waits for its lock by sleeping, longer each time, and a process that has just arrived may overtake. The
mutex is held briefly (for one transaction), so it is polled often, and SQLite's lock is free for its holder.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from events.errors import LogUnavailable
from events.storage.file_lock import try_lock, unlock
from events.storage.private_file import open_companion

RETRY_INTERVAL_S = 0.0003  # between attempts: a transaction with its fsync takes several of these


class WriteLock:
    """A file lock on `<database>-turn`. For one thread at a time."""

    def __init__(self, database: Path, timeout_s: float) -> None:
        self._database = database
        self._path = database.with_name(database.name + "-turn")
        self._timeout_s = timeout_s
        self._descriptor: int | None = None

    @contextmanager
    def held(self, timeout_s: float | None = None) -> Iterator[None]:
        """Hold the lock. Blocks for `timeout_s` at most (None: the constructor's), even while its holder is stopped by
        SIGSTOP. Raises LogUnavailable then, and when the file cannot be created.
        """
        descriptor = self._open()
        self._acquire(descriptor, self._timeout_s if timeout_s is None else timeout_s)
        try:
            yield
        finally:
            unlock(descriptor)

    def close(self) -> None:
        """Close the file, which is not deleted."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is None:
            try:
                self._descriptor = open_companion(self._path, os.O_RDWR)
            except OSError as error:
                raise LogUnavailable(f"cannot write {self._path}: {error.strerror}") from error
        return self._descriptor

    def _acquire(self, descriptor: int, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not try_lock(descriptor):
            if time.monotonic() >= deadline_s:
                raise LogUnavailable(f"database {self._database}: another process keeps it locked")
            time.sleep(RETRY_INTERVAL_S)
