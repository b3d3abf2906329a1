"""The files of the projections in one folder: databases, locks, rebuilds, clones, and leftovers of those.

Files that no process uses any more (of workers that were removed, of rebuilds and clones that were killed) are deleted.
They would keep the hashes of metadata that was erased since, and the key to test a guess with. Nothing is lost: they
can be rebuilt from the log.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import IO

from events.storage.file_lock import try_lock
from events.storage.private_file import open_companion
from projections.errors import ProjectionsInUse
from projections.sqlite import sqlite_file

TEMPORARY_SUFFIX = "-making"  # a rebuild under way
READY_SUFFIX = "-next"  # a finished rebuild, for the service that has the database open
TAKEN_SUFFIX = "-taken"  # a finished rebuild that the service is adopting
CLONE_SUFFIX = "-copy"  # a copy of another worker's database
_LOCK_SUFFIX = "-lock"
_LEFTOVER_SUFFIXES = (TAKEN_SUFFIX, CLONE_SUFFIX)  # not in use while the database is being opened


class PathLock:
    """An exclusive flock on `<path>-lock`, released with the process: one process at a time uses the projections at
    `path`. A lock on the database itself would be lost when it is rebuilt.
    """

    def __init__(self, path: Path) -> None:
        """Raises ProjectionsInUse when another process holds it, OSError when the folder cannot be written."""
        self._file: IO[bytes] = os.fdopen(open_companion(self.file_of(path), os.O_WRONLY), "wb")
        if not try_lock(self._file.fileno()):
            self._file.close()
            raise ProjectionsInUse(str(path))

    @staticmethod
    def file_of(path: Path) -> Path:
        """The file that is locked."""
        return path.with_name(path.name + _LOCK_SUFFIX)

    def release(self) -> None:
        """Release the lock. The file stays: deleting it could let two processes lock different files."""
        self._file.close()


def temporary_path(path: Path) -> Path:
    """The file that a rebuild of `path` writes."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def ready_path(path: Path) -> Path:
    """Where a rebuild leaves its finished file for the service that has `path` open."""
    return path.with_name(path.name + READY_SUFFIX)


def take_ready_file(path: Path) -> Path | None:
    """Rename a finished rebuild of `path`, so that a later one does not overwrite it; None if there is none."""
    taken = path.with_name(path.name + TAKEN_SUFFIX)
    if not ready_path(path).exists():
        return None
    sqlite_file.delete(taken)
    return ready_path(path).replace(taken)


def swap_in(finished: Path, path: Path) -> None:
    """Replace the database at `path` by `finished`. No process has either open, and the caller holds the path's lock.

    The old one is deleted first: if the process is killed in between, the next start folds the log again.
    """
    sqlite_file.delete(path)
    finished.replace(path)


def list_projection_files(path: Path) -> list[Path]:
    """All files of the projections at `path` and of all workers: databases, journals, rebuilds, clones, locks."""
    name = re.compile(rf"{re.escape(path.stem)}(-[0-9]+)?{re.escape(path.suffix)}(-[a-z]+)*")
    return sorted(one for one in _list_folder(path) if name.fullmatch(one.name))


def list_databases(path: Path) -> list[Path]:
    """The paths at which workers have or had their projections, if any file of them is left. The first is `path`."""
    name = re.compile(rf"({re.escape(path.stem)}(?:-[0-9]+)?{re.escape(path.suffix)})(-[a-z]+)*")
    found = (name.fullmatch(one.name) for one in list_projection_files(path) if not one.name.endswith(_LOCK_SUFFIX))
    return sorted({path.with_name(match[1]) for match in found if match})


def delete_unused(path: Path, kept: Collection[Path]) -> list[Path]:
    """Delete the projections beside `path` that are not `kept` and that no process has open. Returns their paths.

    The caller ensures that no process is about to open one of them. Raises OSError.
    """
    deleted: list[Path] = []
    for one in list_databases(path):
        if one in kept:
            continue
        try:
            lock = PathLock(one)
        except ProjectionsInUse:
            continue
        try:
            if sqlite_file.is_disposable(one):
                for suffix in ("", READY_SUFFIX, *_LEFTOVER_SUFFIXES):
                    sqlite_file.delete(one.with_name(one.name + suffix))
                delete_abandoned_rebuild(one)
                deleted.append(one)
        finally:
            lock.release()
    return deleted


def delete_leftovers(path: Path) -> None:
    """Delete what killed processes have left beside `path`, whose lock the caller holds. Raises OSError."""
    for suffix in _LEFTOVER_SUFFIXES:
        sqlite_file.delete(path.with_name(path.name + suffix))
    delete_abandoned_rebuild(path)


def delete_abandoned_rebuild(path: Path) -> None:
    """Delete the file of a rebuild, unless the rebuild is still running. Raises OSError."""
    temporary = temporary_path(path)
    if not any(one.exists() for one in sqlite_file.files(temporary)):
        return
    try:
        lock = PathLock(temporary)
    except ProjectionsInUse:
        return
    try:
        sqlite_file.delete(temporary)
    finally:
        lock.release()


def _list_folder(path: Path) -> list[Path]:
    try:
        return list(path.parent.iterdir())
    except FileNotFoundError:
        return []
