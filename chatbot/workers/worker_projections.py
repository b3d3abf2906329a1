"""The projections file of a process, and the deletion of files that no worker uses any more."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from events.log import EventLog
from projections.sqlite.clone import clone_sibling, slot_path
from projections.sqlite.projection_paths import delete_unused


async def prepare_projections_path(first: Path, log: EventLog, slot: int | None) -> Path:
    """The projections path of the worker in `slot` (None: the only process); the first worker has `first`.

    A new worker's file is a copy of another worker's. A process without workers deletes the files of earlier workers.
    """
    if slot is None:
        await delete_unused_files(first, [1])
        return first
    path = slot_path(first, slot)
    await clone_sibling(path, first, log)
    return path


async def delete_unused_files(first: Path, slots: Iterable[int]) -> None:
    """Delete the projections of all workers except those in `slots`; the first worker has `first`.

    To be called only by the process that starts workers: no worker may be about to open another file.
    """
    logger = structlog.get_logger("projections")
    try:
        deleted = await asyncio.to_thread(delete_unused, first, {slot_path(first, slot) for slot in slots})
    except OSError as error:
        logger.warning("projections.unused_kept", reason=str(error))
        return
    for one in deleted:
        logger.info("projections.unused_deleted", path=str(one))
