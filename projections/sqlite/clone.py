"""A first projections file for a worker: a copy of a sibling's, which is sooner there than one folded anew."""

import asyncio
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from events.errors import LogError
from events.log import EventLog
from events.storage.private_file import create_private
from projections.checkpoint import find_mismatch
from projections.sqlite.projection_paths import CLONE_SUFFIX, list_databases
from projections.sqlite.sqlite_file import checkpoint_of, delete


def slot_path(path: Path, slot: int) -> Path:
    """Where the worker in `slot` keeps its projections: the first at `path` itself."""
    return path if slot == 1 else path.with_name(f"{path.stem}-{slot}{path.suffix}")


async def clone_sibling(path: Path, first: Path, log: EventLog) -> bool:
    """Make `path`, where nothing is, a copy of that sibling's file which is furthest; whether one was made. `first` is
    where the first worker keeps its own; that one is always folded from the log when it is missing.

    Whatever stands in the way, nothing is lost: the file is then folded from the log, too.
    """
    copy = path.with_name(path.name + CLONE_SUFFIX)
    try:
        if path == first or not await asyncio.to_thread(_copy_furthest, path, first, copy):
            return False
        checkpoint = await asyncio.to_thread(checkpoint_of, copy)
        await log.latest()  # the sibling may have folded what this process has not heard of
        if checkpoint is None or await find_mismatch(checkpoint, log) is not None:
            return False
        await asyncio.to_thread(copy.rename, path)
    except (OSError, sqlite3.Error, LogError):
        return False
    else:
        return True
    finally:
        with suppress(OSError):
            await asyncio.to_thread(delete, copy)


def _copy_furthest(path: Path, first: Path, copy: Path) -> bool:
    delete(copy)
    if path.exists():
        return False
    folded = {one: checkpoint_of(one) for one in list_databases(first) if one != path and one.exists()}
    known = {one: checkpoint.position for one, checkpoint in folded.items() if checkpoint and checkpoint.position}
    if known:
        _copy(max(known, key=lambda one: known[one]), copy)
    return bool(known)


def _copy(source: Path, target: Path) -> None:
    """A state of `source` that was once whole, though its worker writes meanwhile."""
    create_private(target)
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)  # all pages in one step, and so in one transaction of the reading side
        writing.execute("PRAGMA journal_mode=DELETE")  # one file, that can be renamed
