"""The log as the processes of the service open it: the one that writes it has checked it before."""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from chatbot import __version__
from chatbot.config.settings import Settings
from chatbot.observability.metrics import LogMetrics
from chatbot.workers.worker import Worker
from chatbot.writer.database_check import check_same_database, check_same_place
from chatbot.writer.storage_options import log_options
from events.compatibility import OtherNodes
from events.errors import LogUnusable
from events.factory import WriterAddress, now_us, open_log
from events.integrity.startup_check import check_integrity
from events.log import EventLog


def open_process_log(
    settings: Settings, log_metrics: LogMetrics, worker: Worker | None
) -> AbstractAsyncContextManager[EventLog]:
    """The log as this process has it: its own, or that of the writer process. Raises LogUnusable."""
    if worker is None:
        return open_checked_log(settings, log_metrics)
    if worker.writer is not None:
        check_same_database(settings, worker.writer)
    else:
        check_same_place(settings, worker.database)
    writer = None if worker.writer is None else WriterAddress(worker.writer.address, worker.writer.positions)
    return open_checked_log(settings, log_metrics, worker.control, writer)


@asynccontextmanager
async def open_checked_log(
    settings: Settings,
    log_metrics: LogMetrics,
    other_nodes: OtherNodes | None = None,
    writer: WriterAddress | None = None,
    owner: int | None = None,
) -> AsyncIterator[EventLog]:
    """Open the log after the startup check, and close it at the end. With `writer` another process writes the log, and
    has checked it. `owner` as in open_log. Raises LogUnusable.
    """
    database, options = settings.database, log_options(settings)
    log = await open_log(
        database.place,
        options,
        clock=now_us,
        observe=log_metrics,
        other_nodes=other_nodes,
        writer=writer,
        owner=owner,
        program=__version__,
    )
    try:
        if writer is None:
            log_metrics.found_incomplete_erasures(
                await check_integrity(log, database.shown if database.is_postgres else database.path)
            )
        yield log
    finally:
        await log.close()


async def check_can_take_over(settings: Settings) -> None:
    """Check whatever can be checked while another process writes the log; changes nothing.

    Raises LogUnusable: this program, with these settings and as this user, could not write the log.
    """
    path = settings.database.path
    log = await open_log(path, log_options(settings), read_only=True, program=__version__)
    try:
        await check_integrity(log, path)
    finally:
        await log.close()
    projections = settings.database.projections
    for one in (path.resolve(), path.resolve().parent, projections.parent):
        _check_writable(one)
    if projections.exists():
        _check_writable(projections)


def _check_writable(path: Path) -> None:
    if not os.access(path, os.R_OK | os.W_OK):
        raise LogUnusable(f"{path} cannot be written by this user: look at its permissions")
