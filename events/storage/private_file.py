"""Files with private content: created with mode 600, whatever the umask. Existing files keep their mode.

Files that belong to a service are owned by the service's user: a command that root runs must not leave files beside a
database that this user cannot open.
"""

import os
from contextlib import suppress
from pathlib import Path

MODE = 0o600


def open_private(path: Path, flags: int) -> int:
    """A descriptor of `path`, which is created if missing. Raises OSError."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, MODE)


def open_companion(path: Path, flags: int) -> int:
    """As `open_private`, for a file that belongs to a service: root gives a new file the owner of the database that it
    is named after (`chatbot.db-lock`), or else of the folder. Raises OSError.
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
    """Create `path`, empty, unless it exists; its owner as in `open_companion`. Raises OSError.

    To be called before SQLite opens a database: the files beside it (-wal, -shm, -journal) get its mode and owner.
    """
    with suppress(FileExistsError):
        # Resolved, as it may be a link whose target does not exist yet.
        os.close(open_companion(path.resolve(), os.O_WRONLY | os.O_EXCL))


def copy_owner(file: int | Path, like: Path) -> None:
    """As root, give `file` the owner and group of `like`; other users change nothing. Raises OSError."""
    if os.geteuid() == 0:
        status = like.stat()
        os.chown(file, status.st_uid, status.st_gid)


def copy_mode(file: Path, like: Path) -> None:
    """Give `file` the mode of `like`, where that exists. Raises OSError."""
    with suppress(FileNotFoundError):
        file.chmod(like.stat().st_mode & 0o777)


def _database_of(path: Path) -> Path | None:
    """The database that `path` is named after: its name is the database's with words appended, such as -making-lock."""
    name, dash, word = path.name.rpartition("-")
    while dash and "." not in word:
        if (found := path.with_name(name)).is_file():
            return found
        name, dash, word = name.rpartition("-")
    return None
