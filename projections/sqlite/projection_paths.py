"""One process at a time keeps its projections in a file: an operating system lock, gone with the process.

Files that projections leave behind: of workers that are no longer wanted, of rebuilds and copies that were killed.

Nobody folds them any more. They would keep the hashes of metadata that was erased since, and the key to test a guess
with. So they are deleted; nothing is lost, for they are made again from the log.
"""

import fcntl
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import IO

from events.storage.private_file import open_companion
from projections.errors import ProjectionsInUse
from projections.sqlite import sqlite_file


class PathLock:
    """Holds `<path>-lock`, beside the database: a lock on the database itself would go when it is rebuilt."""

    def __init__(self, path: Path) -> None:
        """Raises ProjectionsInUse when another process holds it, OSError when the folder cannot be written."""
        self._file: IO[bytes] = os.fdopen(open_companion(self.file_of(path), os.O_WRONLY), "wb")
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


READY_SUFFIX, TEMPORARY_SUFFIX, TAKEN_SUFFIX, CLONE_SUFFIX = "-next", "-making", "-taken", "-copy"
_LEFTOVER_SUFFIXES = (TAKEN_SUFFIX, CLONE_SUFFIX)  # while a file is opened nobody is at these
_LOCK = "-lock"


def list_projection_files(path: Path) -> list[Path]:
    """Every file of the projections at `path` and of all workers' beside it: databases, journals, drafts and copies."""
    name = re.compile(rf"{re.escape(path.stem)}(-[0-9]+)?{re.escape(path.suffix)}(-[a-z]+)*")
    return sorted(one for one in _list_folder(path) if name.fullmatch(one.name))


def list_databases(path: Path) -> list[Path]:
    """The paths at which workers keep or kept their projections, whatever of them is left. The first is at `path`."""
    name = re.compile(rf"({re.escape(path.stem)}(?:-[0-9]+)?{re.escape(path.suffix)})(-[a-z]+)*")
    found = (name.fullmatch(one.name) for one in list_projection_files(path) if not one.name.endswith(_LOCK))
    return sorted({path.with_name(match[1]) for match in found if match})


def delete_unused(path: Path, kept: Collection[Path]) -> list[Path]:
    """Delete the projections beside `path` that are not `kept` and that no process has open. Returns which.

    The caller sees to it that nobody is about to open one of them. Raises OSError.
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
                for ending in ("", READY_SUFFIX, *_LEFTOVER_SUFFIXES):
                    sqlite_file.delete(one.with_name(one.name + ending))
                delete_abandoned_draft(one)
                deleted.append(one)
        finally:
            lock.release()
    return deleted


def delete_leftovers(path: Path) -> None:
    """Delete what was left when a process was killed that made a file for `path`, whose lock the caller has. Raises
    OSError.
    """
    for ending in _LEFTOVER_SUFFIXES:
        sqlite_file.delete(path.with_name(path.name + ending))
    delete_abandoned_draft(path)


def delete_abandoned_draft(path: Path) -> None:
    """Delete the file of a rebuild, unless it is under way. Raises OSError."""
    draft = path.with_name(path.name + TEMPORARY_SUFFIX)
    if not any(one.exists() for one in sqlite_file.files(draft)):
        return
    try:
        lock = PathLock(draft)
    except ProjectionsInUse:
        return
    try:
        sqlite_file.delete(draft)
    finally:
        lock.release()


def _list_folder(path: Path) -> list[Path]:
    try:
        return list(path.parent.iterdir())
    except FileNotFoundError:
        return []
