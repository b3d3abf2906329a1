"""One service per database: two file locks.

SQLite would let two processes write alternately; two actors of one session would then decide without each other. The
lock on `<database>-lock`, a file with the owner's process id, stays valid when the database is replaced. The lock on
the database file itself also excludes a process that opens it under another name (a hard link, a bind mount of the
file): it would use another write-ahead log, and each of the two would overwrite what the other has recorded.
"""

import fcntl
import os
from pathlib import Path

from events.errors import LogInUse, LogUnusable, Remedy
from events.storage.file_lock import is_at, try_lock
from events.storage.private_file import open_companion, open_private

PROBE_OFFSET = 2**62  # a byte that neither SQLite nor another program locks


class DatabaseLock:
    """Exclusive locks on `<database>-lock` and on the database. The first file is left in place, except where a new
    database is given up while it is still empty.

    The descriptor of the database is opened before SQLite opens the file and closed after SQLite closes it: closing any
    descriptor of a file drops all POSIX locks that the process holds on it, SQLite's among them.
    """

    def __init__(self, database: Path, owner: int | None = None) -> None:
        """`owner` is the process that others are told to stop; None: this one."""
        self._database = database
        self._owner = os.getpid() if owner is None else owner
        self._path = database.with_name(database.name + "-lock")
        self._descriptor: int | None = None
        self._file: int | None = None  # of the database; None where flock and SQLite's locks conflict
        self.is_new = False  # whether `acquire` created `<database>-lock`
        self.is_new_database = False  # whether `acquire` created the database

    def acquire(self) -> None:
        """Take both locks, without waiting. Creates an empty database if it is missing.

        Raises LogInUse where another process has one of them, LogUnusable when the files cannot be written.
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
                f"cannot write {self._path} ({error.strerror})", remedy=Remedy.WRITABLE_DIRECTORY_OR_OTHER_DATABASE
            ) from error
        try:
            # If the file is not at its path any more, its owner has removed it: the next process locks another one.
            is_locked = try_lock(descriptor) and is_at(descriptor, self._path)
            if is_locked:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{self._owner}\n".encode())
        except OSError as error:
            os.close(descriptor)
            raise LogUnusable(f"cannot lock {self._path}: {error.strerror}") from error
        if not is_locked:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise LogInUse(self._database, owner or "unknown")
        self._descriptor = descriptor

    def _acquire_file(self) -> None:
        descriptor = self._open_database()
        try:
            self._lock_file(descriptor)
            is_in_conflict = _conflicts_with_sqlite(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if is_in_conflict:
            os.close(descriptor)
        else:
            self._file = descriptor

    def _lock_file(self, descriptor: int) -> None:
        try:
            is_locked = try_lock(descriptor)
        except OSError as error:
            raise LogUnusable(f"cannot lock database {self._database}: {error.strerror}") from error
        if not is_locked:
            raise LogInUse(self._database, None)
        if not is_at(descriptor, self._database):
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

    @property
    def database_descriptor(self) -> int | None:
        """A descriptor of the database's file, open at least until `release`; None where there is none."""
        return self._file

    def release(self, *, remove: bool = False) -> None:
        """Release the locks, once no connection to the database is open; with `remove`, delete `<database>-lock`, too.
        No effect when they are not held.
        """
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._descriptor is not None:
            if remove:
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _conflicts_with_sqlite(descriptor: int) -> bool:
    """Whether on this system flock and POSIX locks of one process exclude each other (BSD; Linux over NFS): then SQLite
    could not lock the file.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, PROBE_OFFSET)
    except OSError:
        return True
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, PROBE_OFFSET)
    return False


def _check_not_aliased(database: Path) -> None:
    """For readers. Raises LogUnusable where a service has the file open under another name: its write-ahead log, with
    the latest events, is not beside this name.

    The database is opened here only while this name is not locked: closing it drops this process's POSIX locks.
    """
    if _is_locked(database.with_name(database.name + "-lock")) is False and _is_locked(database):
        raise LogUnusable(
            f"database {database} is in use under another name (a hard link, a mount of the file): read it by that"
            " name, beside which its write-ahead file is"
        )


def _is_locked(path: Path) -> bool | None:
    """Whether a process has locked the file, if it exists; None where this user may not open or lock it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        return not try_lock(descriptor, is_shared=True)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def database_file(path: Path, *, read_only: bool = False) -> Path:
    """The file behind `path`, so that two names of one database share one lock; its directory is created if missing.

    Raises LogUnusable.
    """
    database = path.resolve()
    if database.is_dir():
        raise LogUnusable(f"database {database} is a directory", remedy=Remedy.OTHER_DATABASE)
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
