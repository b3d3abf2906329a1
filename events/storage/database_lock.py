"""One server per database: two operating system locks, released even by `kill -9`.

SQLite would let two processes take turns at writing; two actors of one session would then decide without each other.
The lock on `<database>-lock` keeps its owner's process id and stays valid when the database is replaced. The lock on
the database file itself also excludes a process that opens it under another name (a hard link, a bind mount of the
file): it would use another write-ahead file, and each of the two would overwrite what the other has recorded.
"""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from events.errors import LogInUse, LogUnusable
from events.storage.private_file import open_companion, open_private

PROBE_OFFSET = 2**62  # a byte that neither SQLite nor anybody else locks


class DatabaseLock:
    """Exclusive locks on `<database>-lock` and on the database. `<database>-lock` holds the owner's process id and is
    left in place, but for the one of a database that is given up before anything was in it: whoever waits at it then is
    refused.

    The descriptor of the database is opened before SQLite opens the file and closed after it: closing any descriptor of
    a file drops all POSIX locks that the process holds on it, SQLite's among them.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(database.name + "-lock")
        self._descriptor: int | None = None
        self._file: int | None = None  # of the database; None where it cannot be locked beside SQLite
        self._adopted_file: int | None = None  # of the database, by `adopt`: stays open
        self.is_new = False  # whether `acquire` made the lock's file
        self.is_new_database = False  # whether `acquire` made the database's file

    def acquire(self) -> None:
        """Take both locks or raise LogInUse at once; LogUnusable when no file can be written there. The database is
        made, empty, if it is missing.
        """
        self._acquire_name()
        try:
            self._acquire_file()
        except BaseException:
            self.release()
            raise

    def _acquire_name(self) -> None:
        self.is_new = not self._path.exists()
        try:
            descriptor = open_companion(self._path, os.O_RDWR)
        except OSError as error:
            raise LogUnusable(
                f"cannot write {self._path} ({error.strerror}): make its directory writable"
                " or choose another DATABASE_URL"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_in_place(descriptor)
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

    def _acquire_file(self) -> None:
        descriptor = self._open_database()
        try:
            self._lock_file(descriptor)
            hinders = _conflicts_with_sqlite(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if hinders:
            os.close(descriptor)
        else:
            self._file = descriptor

    def _lock_file(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogInUse(self._database, None) from None
        except OSError as error:
            raise LogUnusable(f"cannot lock database {self._database}: {error.strerror}") from error
        if not _is_at(descriptor, self._database):
            raise LogUnusable(f"database {self._database} was replaced while it was opened: try again")

    def _open_database(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            try:
                descriptor = open_private(self._database, flags | os.O_EXCL)
                self.is_new_database = True
            except FileExistsError:
                descriptor = os.open(self._database, flags)
        except OSError as error:
            raise LogUnusable(f"database {self._database} cannot be opened: {error.strerror}") from error
        return descriptor

    def adopt(self, descriptors: Sequence[int]) -> None:
        """Hold the locks together with the process that acquired them and has passed `descriptors` on: they are let go
        when the last of them has let go. Raises LogUnusable when `descriptors` are not of the locks in place.

        The database's own descriptor stays open until this process ends.
        """
        try:
            for descriptor, path in zip(descriptors, (self._path, self._database), strict=False):
                if not _is_at(descriptor, path):
                    raise BlockingIOError
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # changes nothing where it is held already
            self._descriptor = os.dup(descriptors[0])
            self._adopted_file = descriptors[1] if len(descriptors) > 1 else None
        except OSError as error:
            raise LogUnusable(
                f"descriptors {tuple(descriptors)} do not hold the lock of database {self._database}"
            ) from error

    @property
    def database_descriptor(self) -> int | None:
        """A descriptor of the database's file, open at least until `release`; None where there is none."""
        return self._file if self._file is not None else self._adopted_file

    @property
    def descriptors(self) -> tuple[int, ...]:
        """To be passed on to processes that will `adopt` them. Raises ValueError when not held."""
        if self._descriptor is None:
            raise ValueError("the lock is not held")
        return (self._descriptor,) if self._file is None else (self._descriptor, self._file)

    def _check_in_place(self, descriptor: int) -> None:
        """Raises BlockingIOError when the file's owner took it away meanwhile: whoever comes next locks another."""
        if not _is_at(descriptor, self._path):
            raise BlockingIOError

    def release(self, *, remove: bool = False) -> None:
        """Let go, once no connection to the database is open; `remove` takes the lock's file away, too. Harmless when
        not held.
        """
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._descriptor is not None:
            if remove:
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _conflicts_with_sqlite(descriptor: int) -> bool:
    """Whether this system counts a `flock` and POSIX locks of one process as conflicting (BSD; Linux over NFS): SQLite
    could then not lock the file itself.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, PROBE_OFFSET)
    except OSError:
        return True
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, PROBE_OFFSET)
    return False


def _check_not_aliased(database: Path) -> None:
    """For readers. Raises LogUnusable where a service has the file open under another name: its write-ahead file, with
    what was recorded last, is not beside this one.

    The database is opened here only while nobody has locked this name: to close it drops this process's POSIX locks.
    """
    if _is_locked(database.with_name(database.name + "-lock")) is False and _is_locked(database):
        raise LogUnusable(
            f"database {database} is in use under another name (a hard link, a mount of the file): read it by that"
            " name, beside which its write-ahead file is"
        )


def _is_locked(path: Path) -> bool | None:
    """Whether a process has locked the file, if it exists; None where this user cannot tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)


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
        _check_not_aliased(database)
        return database
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogUnusable(f"cannot make the directory {database.parent}: {error.strerror}") from error
    if database.exists() and not os.access(database, os.W_OK):
        raise LogUnusable(f"database {database} cannot be written: look at its permissions")
    return database
