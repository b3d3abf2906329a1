"""Rebuild: fold the whole log into a new file, and put it in the place of the present one.

A file must not be replaced while another process has it open: SQLite would copy the old file's write-ahead log into the
new one. So the service that has the path open swaps the files itself (`ProjectionFile.adopt`); a rebuild in any other
process only makes its file ready for that.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from events.log import EventLog
from events.record import RecordedEvent
from events.storage.private_file import copy_mode, copy_owner, open_companion
from projections.checkpoint import digest_at, fold_log
from projections.errors import LogReplaced, ProjectionsInUse, ProjectionsUnusable
from projections.port import Checkpoint
from projections.sqlite import sqlite_file
from projections.sqlite.projection_paths import PathLock, ready_path, swap_in, temporary_path
from projections.sqlite.projection_writer import ProjectionWriter

FLUSH_BYTES = 2**20  # written to disk in one go: an fsync of the log on the same disk waits for no more than that
FLUSH_REST = 3.0  # seconds of rest for each second of writing


async def rebuild(
    log: EventLog, path: Path, batch_max: int, on_progress: Callable[[int], None], owned_like: Path | None = None
) -> tuple[int, bool]:
    """Fold the whole log into a new file and put it at `path`, or make it ready for the service that has `path` open.

    The new file has the mode of the one at `path`. If root makes it, it also has the owner of the file at `path`, or of
    `owned_like` if there is none. Returns the position reached and whether the file is in place. Until then nothing at
    `path` changes. If interrupted, it leaves nothing behind; if killed, the next one deletes what is left.

    Raises ProjectionsInUse while another rebuild of the path is running, ProjectionsUnusable if `path` is no
    projections file, LogReplaced if the present file has folded events that the log does not have, LogUnusable,
    LogUnavailable, UnknownEvent, OSError, sqlite3.Error.
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
    """Done before the file is handed over: from then on a service may open it and its lock."""
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
    thread = ThreadPoolExecutor(1, thread_name_prefix="rebuild")  # one thread, so that close waits for a running batch
    try:
        sqlite_file.delete(file)
        writer = await loop.run_in_executor(thread, partial(ProjectionWriter, file, is_temporary=True))

        async def apply(batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> None:
            await loop.run_in_executor(thread, writer.apply, batch, checkpoint)

        try:
            reached = await fold_log(log, apply, writer.checkpoint, batch_max, on_progress=on_progress)
        finally:
            await loop.run_in_executor(thread, writer.close)
        for start, size in await loop.run_in_executor(thread, _flush_ranges, file):
            began_s = loop.time()
            await loop.run_in_executor(thread, sqlite_file.flush, file, start, size)
            await asyncio.sleep((loop.time() - began_s) * FLUSH_REST)
        return reached
    finally:
        thread.shutdown(wait=False)


def _flush_ranges(file: Path) -> list[tuple[int, int]]:
    """The offset and size of each piece of the file."""
    size = file.stat().st_size
    return [(start, min(FLUSH_BYTES, size - start)) for start in range(0, size, FLUSH_BYTES)]


def _hand_over(path: Path) -> bool:
    """Put the file in place, or make it ready if a service has the path open. Returns whether it is in place."""
    try:
        lock = PathLock(path)
    except ProjectionsInUse:
        temporary_path(path).replace(ready_path(path))
        return False
    try:
        sqlite_file.delete(ready_path(path))  # of an earlier rebuild
        swap_in(temporary_path(path), path)
    finally:
        lock.release()
    return True
