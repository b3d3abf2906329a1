"""Whether the files of an open log are still in their places.

SQLite goes on writing to a write-ahead file that has been deleted or replaced: nothing fails until the process ends,
and then everything since the last checkpoint is gone. A deleted shared-memory file lets other processes believe that
nobody uses the log.
"""

import os
from pathlib import Path

from msgspec import Struct

COMPANIONS = ("-wal", "-shm")


class Loss(Struct, frozen=True):
    """A file is not in its place. `is_final`: this process cannot go on even when the file comes back."""

    reason: str
    is_final: bool


class FileWatch:
    """Remembers which files SQLite has opened. All calls block, for microseconds."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._companions = tuple(f"{path}{suffix}" for suffix in COMPANIONS)
        self._file: tuple[int, int] | None = None
        self._beside: tuple[tuple[int, int] | None, ...] = ()

    def note(self) -> None:
        """Remember the files in place, once SQLite has opened them. Which one is the database's own stays."""
        self._file = self._file or _identity(self._path)
        self._beside = tuple(map(_identity, self._companions))

    @property
    def is_complete(self) -> bool:
        """Whether the files beside the database are watched, too."""
        return bool(self._beside)

    def forget(self) -> None:
        """SQLite may delete the files beside the database now, as it does when the last connection is closed."""
        self._beside = ()

    def look(self) -> Loss | None:
        """What has been lost since `note`."""
        if _identity(self._path) != self._file:
            return Loss(f"database {self._path} was deleted or replaced while in use: stop, and restore it", False)
        for path, noted in zip(self._companions, self._beside, strict=False):
            if _identity(path) != noted:
                return Loss(
                    f"{path} was deleted or replaced while in use: nothing more is recorded until a restart", True
                )
        return None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  on the way of every commit: half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino
