"""Whether the files of an open log are still in their places.

SQLite goes on writing to a write-ahead file that has been deleted or replaced: nothing fails until the process ends,
and then everything since the last checkpoint is gone. A deleted shared-memory file lets other processes believe that
nobody uses the log.

Whether another program has cut the write-ahead file short, as `: > chatbot.db-wal` does to free disk space.

The file keeps its name, and SQLite goes on writing where it has stopped: behind a hole in place of what was recorded.
Nothing fails until pages are copied from there, which would put zeros into the database, or until the process ends. So
this is checked before every commit, while a pass of copying still meets the end of the file and changes nothing.
"""

import os
import sqlite3
from pathlib import Path

from msgspec import Struct

from events.errors import LogStopped, LogUnavailable

COMPANIONS = ("-wal", "-shm")


class FileLoss(Struct, frozen=True):
    """A file is not in its place. `is_final`: this process cannot go on even when the file comes back."""

    reason: str
    is_final: bool


class FileLossDetector:
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

    def find_loss(self) -> FileLoss | None:
        """What has been lost since `note`."""
        if _identity(self._path) != self._file:
            return FileLoss(f"database {self._path} was deleted or replaced while in use: stop, and restore it", False)
        for path, noted in zip(self._companions, self._beside, strict=False):
            if _identity(path) != noted:
                return FileLoss(
                    f"{path} was deleted or replaced while in use: nothing more is recorded until a restart", True
                )
        return None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  on the way of every commit: half the time of Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino


HEADER_BYTES = 32  # of the file, https://www.sqlite.org/fileformat2.html#walformat
FRAME_BYTES = 24 + 4096  # of a page in it, at least
_SHORT = "SQLITE_IOERR_SHORT_READ"


class WalTruncated(LogStopped):
    """What was recorded since the last checkpoint is gone from the file."""


class WalTruncationDetector:
    """Remembers how long the file was. All calls block, for microseconds."""

    def __init__(self, path: Path) -> None:
        self._path = f"{path}-wal"
        self._bytes = 0

    def note(self) -> None:
        """After a commit, which may have made the file shorter: SQLite cuts it where it begins anew."""
        self._bytes = self._size()

    def has_shrunk(self) -> bool:
        """Whether the file is shorter than it was: emptied by a checkpoint, perhaps, of another process."""
        size = self._size()
        if size < self._bytes:
            return True
        self._bytes = size
        return False

    def check(self, connection: sqlite3.Connection) -> None:
        """Before a commit, in the connection's thread. Raises WriteAheadCut, LogUnavailable where another process
        copies just now, sqlite3.Error.
        """
        if not self.has_shrunk():
            return
        size = self._size()
        try:
            busy, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == _SHORT:
                raise self._cut() from error
            raise
        if busy:
            raise LogUnavailable(f"{self._path} is being copied")
        if frames > 0 and size < HEADER_BYTES + frames * FRAME_BYTES:
            raise self._cut()
        self._bytes = size

    def _cut(self) -> WalTruncated:
        return WalTruncated(
            f"{self._path} was cut short while in use, and what was recorded since the last checkpoint with it: nothing"
            " more is recorded; stop, and verify the log"
        )

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size  # noqa: PTH116  on the way of every commit
        except OSError:
            return self._bytes  # a file that is gone is for FileWatch to tell
