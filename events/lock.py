"""One server per database: an operating system lock on a file beside it, let go even by `kill -9`.

SQLite would let two processes take turns at writing; two actors of one session would then decide without each other.
"""

import fcntl
import os
from pathlib import Path

from events.errors import LogInUse, LogUnusable


class DatabaseLock:
    """An exclusive lock on `<database>-lock`. The file holds the owner's process id and is left in place, but for
    the one of a database that is given up before anything was in it: whoever waits at it then is refused.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(database.name + "-lock")
        self._descriptor: int | None = None
        self.is_new = False  # whether `acquire` made the file

    def acquire(self) -> None:
        """Take the lock or raise LogInUse at once; LogUnusable when no file can be written there."""
        self.is_new = not self._path.exists()
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LogUnusable(
                f"cannot write {self._path} ({error.strerror}): make its directory writable"
                " or choose another DATABASE_URL"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._must_be_in_place(descriptor)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise LogInUse(self._database, owner or "unknown") from None
        except OSError as error:
            os.close(descriptor)
            raise LogUnusable(f"cannot lock {self._path}: {error.strerror}") from error
        self._descriptor = descriptor

    def adopt(self, descriptor: int) -> None:
        """Hold the lock together with the process that acquired it and has passed `descriptor` on: it is let go when
        the last of them has let go. Raises LogUnusable when `descriptor` is not of the lock in place.
        """
        try:
            self._must_be_in_place(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # changes nothing where it is held already
            self._descriptor = os.dup(descriptor)
        except OSError as error:
            raise LogUnusable(f"descriptor {descriptor} does not hold the lock of database {self._database}") from error

    @property
    def descriptor(self) -> int:
        """To be passed on to processes that will `adopt` it. Raises ValueError when not held."""
        if self._descriptor is None:
            raise ValueError("the lock is not held")
        return self._descriptor

    def _must_be_in_place(self, descriptor: int) -> None:
        """Raises BlockingIOError when the file's owner took it away meanwhile: whoever comes next locks another."""
        try:
            in_place = os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            in_place = False
        if not in_place:
            raise BlockingIOError

    def release(self, *, remove: bool = False) -> None:
        """Let go; `remove` takes the file away, too. Harmless when not held."""
        if self._descriptor is not None:
            if remove:
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def database_file(path: Path, *, read_only: bool = False) -> Path:
    """The file behind `path`, so that two names of one database share one lock; its directory is made if missing.

    Raises LogUnusable.
    """
    database = path.resolve()
    if database.is_dir():
        raise LogUnusable(f"database {database} is a directory: choose another DATABASE_URL")
    if read_only:
        if not database.exists():
            raise LogUnusable(f"database {database} does not exist")
        return database
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogUnusable(f"cannot make the directory {database.parent}: {error.strerror}") from error
    if database.exists() and not os.access(database, os.W_OK):
        raise LogUnusable(f"database {database} cannot be written: look at its permissions")
    return database
