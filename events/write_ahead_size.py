"""Whether another program has cut the write-ahead file short, as `: > chatbot.db-wal` does to free disk space.

The file keeps its name, and SQLite goes on writing where it has stopped: behind a hole in place of what was recorded.
Nothing fails until pages are copied from there, which would put zeros into the database, or until the process ends. So
this is checked before every commit, while a pass of copying still meets the end of the file and changes nothing.
"""

import os
import sqlite3
from pathlib import Path

from events.errors import LogStopped, LogUnavailable

HEADER_BYTES = 32  # of the file, https://www.sqlite.org/fileformat2.html#walformat
FRAME_BYTES = 24 + 4096  # of a page in it, at least
_SHORT = "SQLITE_IOERR_SHORT_READ"


class WriteAheadCut(LogStopped):
    """What was recorded since the last checkpoint is gone from the file."""


class WriteAheadSize:
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

    def _cut(self) -> WriteAheadCut:
        return WriteAheadCut(
            f"{self._path} was cut short while in use, and what was recorded since the last checkpoint with it: nothing"
            " more is recorded; stop, and verify the log"
        )

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size  # noqa: PTH116  on the way of every commit
        except OSError:
            return self._bytes  # a file that is gone is for FileWatch to tell
