"""Whose turn it is to write, of the processes that share one SQLite file.

SQLite's own way to wait for a lock is to sleep, longer each time, and whoever has just come may overtake. A turn is
short (one transaction), so here one looks often, and SQLite's lock is free for whoever has the turn.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from events.errors import LogUnavailable
from events.storage.private_file import open_companion

RETRY_INTERVAL_S = 0.0003  # between looks: a transaction with its fsync takes several of these


class WriteLock:
    """An operating system lock on `<database>-turn`, let go even by `kill -9`. For one thread at a time."""

    def __init__(self, database: Path, timeout_s: float) -> None:
        self._database = database
        self._path = database.with_name(database.name + "-turn")
        self._timeout_s = timeout_s
        self._descriptor: int | None = None

    @contextmanager
    def held(self, timeout_s: float | None = None) -> Iterator[None]:
        """Hold the turn. Blocks for `patience_s` at most (None: what was said at first), even where the process that
        has the turn is stopped. Raises LogUnavailable then, and when the file cannot be made.
        """
        descriptor = self._open()
        self._acquire(descriptor, self._timeout_s if timeout_s is None else timeout_s)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file, which stays."""
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
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise LogUnavailable(f"database {self._database}: another process keeps it locked") from None
                time.sleep(RETRY_INTERVAL_S)
            else:
                return
