"""A file made anew from the whole log beside the one in use, and how it takes that one's place.

No program may replace a file that another has open: SQLite would fold the old file's write-ahead log into the new
one. So the service that has the path open swaps the files itself (`ProjectionFile.adopt`); others only offer theirs.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from events.log import EventLog
from events.record import RecordedEvent
from events.storage.private_file import copy_mode, copy_owner, open_companion
from projections.checkpoint import Checkpoint, checkpoint_at, digest_at
from projections.errors import LogReplaced, ProjectionsInUse, ProjectionsUnusable
from projections.sqlite import sqlite_file
from projections.sqlite.projection_paths import READY_SUFFIX, TAKEN_SUFFIX, TEMPORARY_SUFFIX, PathLock
from projections.sqlite.projection_writer import ProjectionWriter

FLUSH_BYTES = 2**20  # of a new file that reach the disk at once: a log that is synced beside it waits for no more
FLUSH_REST = 3.0  # seconds of rest for each second of that

Apply = Callable[[Sequence[RecordedEvent], Checkpoint], Awaitable[None]]


def temporary_path(path: Path) -> Path:
    """Where a rebuild of `path` works."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def ready_path(path: Path) -> Path:
    """Where it leaves a finished file for the service that has `path` open."""
    return path.with_name(path.name + READY_SUFFIX)


def take_ready_file(path: Path) -> Path | None:
    """Take what is offered for `path` away to where no later offer can reach it; None when nothing is."""
    claimed = path.with_name(path.name + TAKEN_SUFFIX)
    if not ready_path(path).exists():
        return None
    sqlite_file.delete(claimed)
    return ready_path(path).replace(claimed)


def swap_in(finished: Path, path: Path) -> None:
    """Let `finished` be the file at `path`. Nobody has either open, and the caller holds the path's lock.

    Deleted first: killed in between, the next start folds the log again, which is slow but never wrong.
    """
    sqlite_file.delete(path)
    finished.replace(path)


async def fold_log(
    log: EventLog,
    apply: Apply,
    checkpoint: Checkpoint,
    batch_max: int,
    up_to: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """`apply` the events after `checkpoint` batch by batch, at least up to `up_to`, or to the log's end.

    The end is where a batch comes short: under clients who go on there would be no other. `told` hears each position
    reached; the last one is returned.
    """
    while up_to is None or checkpoint.position < up_to:
        batch = await log.read_all(after=checkpoint.position, limit=batch_max)
        if not batch:
            break
        checkpoint = await checkpoint_at(log, batch[-1].position, checkpoint.identity)
        await apply(batch, checkpoint)
        on_progress(checkpoint.position)
        if up_to is None and len(batch) < batch_max:
            break
    return checkpoint.position


async def rebuild(
    log: EventLog, path: Path, batch_max: int, on_progress: Callable[[int], None], owned_like: Path | None = None
) -> tuple[int, bool]:
    """Fold the whole log into a new file and put that at `path`, or offer it to the service that has `path` open.

    The new file has the mode of the one at `path` and, where root makes it, the owner of that, or else of `owned_like`.
    Returns the position reached and whether the file is in place. Until then nothing at `path` changes; interrupted,
    it leaves nothing behind; killed, what the next one deletes. Raises ProjectionsInUse while another rebuild of the
    path is under way, ProjectionsUnusable when something else is at `path`, LogReplaced when the present file has
    folded what the log does not have, LogUnusable, LogUnavailable, UnknownEvent, OSError, sqlite3.Error.
    """
    await _require_replaceable(log, path)
    lock = PathLock(temporary_path(path))
    try:
        reached = await _build_file(log, temporary_path(path), batch_max, on_progress)
        await asyncio.to_thread(_copy_mode_and_owner, path, owned_like)
        return reached, _hand_over(path)
    except BaseException:
        sqlite_file.delete(temporary_path(path))
        raise
    finally:
        lock.release()


def _copy_mode_and_owner(path: Path, owned_like: Path | None) -> None:
    """Before the file takes its place: from then on a service may open it, and its lock."""
    file, like = temporary_path(path), path if path.exists() else owned_like
    copy_mode(file, path)
    if like is not None:
        os.close(open_companion(PathLock.file_of(path), os.O_WRONLY))
        for one in (file, PathLock.file_of(file), PathLock.file_of(path)):
            copy_owner(one, like)


async def _require_replaceable(log: EventLog, path: Path) -> None:
    if not await asyncio.to_thread(sqlite_file.is_disposable, path):
        raise ProjectionsUnusable(f"{path} holds no projections: name another file, or delete it yourself")
    present = await asyncio.to_thread(sqlite_file.checkpoint_of, path)
    if present and present.position and await digest_at(log, present.position) != present.digest:
        raise LogReplaced(path, f"the log's event at their checkpoint {present.position} is another or gone")


async def _build_file(log: EventLog, file: Path, batch_max: int, on_progress: Callable[[int], None]) -> int:
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, thread_name_prefix="rebuild")  # one, so that closing waits for a batch under way
    try:
        sqlite_file.delete(file)
        store = await loop.run_in_executor(thread, partial(ProjectionWriter, file, is_draft=True))

        async def apply(batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> None:
            await loop.run_in_executor(thread, store.apply, batch, checkpoint)

        try:
            reached = await fold_log(log, apply, store.checkpoint, batch_max, on_progress=on_progress)
        finally:
            await loop.run_in_executor(thread, store.close)
        for start, size in await loop.run_in_executor(thread, _flush_ranges, file):
            began_s = loop.time()
            await loop.run_in_executor(thread, sqlite_file.flush, file, start, size)
            await asyncio.sleep((loop.time() - began_s) * FLUSH_REST)
        return reached
    finally:
        thread.shutdown(wait=False)


def _flush_ranges(file: Path) -> list[tuple[int, int]]:
    """Where each piece of the file begins, and its size."""
    size = file.stat().st_size
    return [(start, min(FLUSH_BYTES, size - start)) for start in range(0, size, FLUSH_BYTES)]


def _hand_over(path: Path) -> bool:
    """Whether the file is in place; if not, a service has the path open and is offered it."""
    try:
        lock = PathLock(path)
    except ProjectionsInUse:
        temporary_path(path).replace(ready_path(path))
        return False
    try:
        sqlite_file.delete(ready_path(path))  # an older offer
        swap_in(temporary_path(path), path)
    finally:
        lock.release()
    return True
