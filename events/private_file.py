"""Files with people's words are created for their owner alone, whatever the umask. Existing files keep their mode."""

import os
from contextlib import suppress
from pathlib import Path

MODE = 0o600


def open_private(path: Path, flags: int) -> int:
    """A descriptor of `path`, which is created if missing. Raises OSError."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, MODE)


def create_private(path: Path) -> None:
    """Create `path`, empty, unless it exists. Raises OSError.

    To be called before SQLite opens a database: the files beside it (-wal, -shm, -journal) get the database's mode.
    """
    with suppress(FileExistsError):
        os.close(open_private(path.resolve(), os.O_WRONLY | os.O_EXCL))  # resolved, as it may be a link to nothing yet
