"""Which file a process keeps its projections in, and that no others stay beside it."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from events.log import EventLog
from projections.sqlite.clone import clone_sibling, slot_path
from projections.sqlite.projection_paths import delete_unused


async def prepare_projections_path(first: Path, log: EventLog, slot: int | None) -> Path:
    """Where the worker in `slot` (None: the only process) keeps its projections, where the first worker has `first`.

    A worker's file begins as a copy of a sibling's. The only process deletes what workers have left.
    """
    if slot is None:
        await delete_unused_files(first, [1])
        return first
    path = slot_path(first, slot)
    await clone_sibling(path, first, log)
    return path


async def delete_unused_files(first: Path, slots: Iterable[int]) -> None:
    """Delete the projections of all workers but those in these slots, one of which has `first`.

    Only for who starts workers: none may be about to open another file.
    """
    logger = structlog.get_logger("projections")
    try:
        deleted = await asyncio.to_thread(delete_unused, first, {slot_path(first, slot) for slot in slots})
    except OSError as error:
        logger.warning("projections.unused_kept", reason=str(error))
        return
    for one in deleted:
        logger.info("projections.unused_deleted", path=str(one))
