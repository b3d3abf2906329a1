"""Files with people's words are created for their owner alone, whatever the umask. Existing files keep their mode.

The owner of what belongs to a service is the service: a command that root runs must not leave files beside a database
that the service's user cannot open.
"""

import os
from contextlib import suppress
from pathlib import Path

MODE = 0o600


def open_private(path: Path, flags: int) -> int:
    """A descriptor of `path`, which is created if missing. Raises OSError."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, MODE)


def open_companion(path: Path, flags: int) -> int:
    """As `open_private`, for a file that belongs to a service: root gives a new one to the owner of the database that
    it is named after (`chatbot.db-lock`), or else of the folder. Raises OSError.
    """
    try:
        descriptor = open_private(path, flags | os.O_EXCL)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return open_private(path, flags)
    try:
        copy_owner(descriptor, _database_of(path) or path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def create_private(path: Path) -> None:
    """Create `path`, empty, unless it exists; root gives it away as in `open_beside`. Raises OSError.

    To be called before SQLite opens a database: the files beside it (-wal, -shm, -journal) get its mode and owner.
    """
    with suppress(FileExistsError):
        os.close(
            open_companion(path.resolve(), os.O_WRONLY | os.O_EXCL)
        )  # resolved, as it may be a link to nothing yet


def copy_owner(file: int | Path, like: Path) -> None:
    """Root gives `file` to the owner and group of `like`; for others nothing changes. Raises OSError."""
    if os.geteuid() == 0:
        found = like.stat()
        os.chown(file, found.st_uid, found.st_gid)


def copy_mode(file: Path, like: Path) -> None:
    """Give `file` the mode of `like`, where that exists. Raises OSError."""
    with suppress(FileNotFoundError):
        file.chmod(like.stat().st_mode & 0o777)


def _database_of(path: Path) -> Path | None:
    """The database that `path` is named after: it has the name and words behind it, such as -making-lock."""
    name, dash, word = path.name.rpartition("-")
    while dash and "." not in word:
        if (found := path.with_name(name)).is_file():
            return found
        name, dash, word = name.rpartition("-")
    return None
