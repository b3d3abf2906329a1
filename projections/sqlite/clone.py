"""The first projections file of a worker: a copy of another worker's, which is faster than folding the log."""

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
    """The projections path of the worker in `slot`: the first has `path` itself."""
    return path if slot == 1 else path.with_name(f"{path.stem}-{slot}{path.suffix}")


async def clone_sibling(path: Path, first: Path, log: EventLog) -> bool:
    """Copy to `path`, if there is no file, the most advanced file of the other workers. Returns whether it did.

    `first` is the path of the first worker, which always folds the log if its file is missing. On any error the file is
    folded from the log, too.
    """
    copy = path.with_name(path.name + CLONE_SUFFIX)
    try:
        if path == first or not await asyncio.to_thread(_copy_furthest, path, first, copy):
            return False
        checkpoint = await asyncio.to_thread(checkpoint_of, copy)
        await log.latest()  # the other worker may have folded events that this process has not seen
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
    """A consistent copy of `source`, though its worker writes meanwhile."""
    create_private(target)
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)  # all pages in one step, so in one read transaction
        writing.execute("PRAGMA journal_mode=DELETE")  # one file, which can be renamed
