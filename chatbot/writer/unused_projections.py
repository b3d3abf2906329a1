"""The deletion of projection files that no process uses any more."""

import asyncio
from pathlib import Path

import structlog

from projections.sqlite.projection_paths import delete_unused


async def delete_unused_files(path: Path) -> None:
    """Delete the projections next to `path` that workers of versions before 0.9 had, each its own.

    To be called only by the process that keeps those at `path`: no process may be about to open another file.
    """
    logger = structlog.get_logger("projections")
    try:
        deleted = await asyncio.to_thread(delete_unused, path, {path})
    except OSError as error:
        logger.warning("projections.unused_kept", reason=str(error))
        return
    for one in deleted:
        logger.info("projections.unused_deleted", path=str(one))
