"""Files that projections leave behind: of workers that are no longer wanted, of rebuilds and copies that were killed.

Nobody folds them any more. They would keep the hashes of metadata that was erased since, and the key to test a guess
with. So they are deleted; nothing is lost, for they are made again from the log.
"""

import re
from collections.abc import Collection
from pathlib import Path

from projections import database
from projections.errors import ProjectionsInUse
from projections.lock import PathLock

OFFERED, MAKING, TAKEN, COPY = "-next", "-making", "-taken", "-copy"
_LEFT = (TAKEN, COPY)  # while a file is opened nobody is at these
_LOCK = "-lock"


def files_of(path: Path) -> list[Path]:
    """Every file of the projections at `path` and of all workers' beside it: databases, journals, drafts and copies."""
    name = re.compile(rf"{re.escape(path.stem)}(-[0-9]+)?{re.escape(path.suffix)}(-[a-z]+)*")
    return sorted(one for one in _beside(path) if name.fullmatch(one.name))


def databases_of(path: Path) -> list[Path]:
    """The paths at which workers keep or kept their projections, whatever of them is left. The first is at `path`."""
    name = re.compile(rf"({re.escape(path.stem)}(?:-[0-9]+)?{re.escape(path.suffix)})(-[a-z]+)*")
    found = (name.fullmatch(one.name) for one in files_of(path) if not one.name.endswith(_LOCK))
    return sorted({path.with_name(match[1]) for match in found if match})


def delete_unused(path: Path, kept: Collection[Path]) -> list[Path]:
    """Delete the projections beside `path` that are not `kept` and that no process has open. Returns which.

    The caller sees to it that nobody is about to open one of them. Raises OSError.
    """
    deleted: list[Path] = []
    for one in databases_of(path):
        if one in kept:
            continue
        try:
            lock = PathLock(one)
        except ProjectionsInUse:
            continue
        try:
            if database.is_disposable(one):
                for ending in ("", OFFERED, *_LEFT):
                    database.delete(one.with_name(one.name + ending))
                delete_draft(one)
                deleted.append(one)
        finally:
            lock.release()
    return deleted


def delete_left(path: Path) -> None:
    """Delete what was left when a process was killed that made a file for `path`, whose lock the caller has. Raises
    OSError.
    """
    for ending in _LEFT:
        database.delete(path.with_name(path.name + ending))
    delete_draft(path)


def delete_draft(path: Path) -> None:
    """Delete the file of a rebuild, unless it is under way. Raises OSError."""
    draft = path.with_name(path.name + MAKING)
    if not any(one.exists() for one in database.files(draft)):
        return
    try:
        lock = PathLock(draft)
    except ProjectionsInUse:
        return
    try:
        database.delete(draft)
    finally:
        lock.release()


def _beside(path: Path) -> list[Path]:
    try:
        return list(path.parent.iterdir())
    except FileNotFoundError:
        return []
