"""One process at a time keeps its projections in a file: an operating system lock, gone with the process."""

import fcntl
import os
from pathlib import Path
from typing import IO

from events.private_file import open_beside
from projections.errors import ProjectionsInUse


class PathLock:
    """Holds `<path>-lock`, beside the database: a lock on the database itself would go when it is rebuilt."""

    def __init__(self, path: Path) -> None:
        """Raises ProjectionsInUse when another process holds it, OSError when the folder cannot be written."""
        self._file: IO[bytes] = os.fdopen(open_beside(self.file_of(path), os.O_WRONLY), "wb")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ProjectionsInUse(str(path)) from error

    @staticmethod
    def file_of(path: Path) -> Path:
        """The file that is locked."""
        return path.with_name(path.name + "-lock")

    def release(self) -> None:
        """Let the next process in. The file stays: deleting it could let two in at once."""
        self._file.close()
