"""Wiring of the projections: the runner over a SQLite store, or a node's part in the projections of a PostgreSQL log.

Only the service's wiring and tools import this.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from events.log import EventLog, NotifyingLog
from events.options import LogOptions
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.observer import ProjectionObserver
from projections.runner import ProjectionRunner, RunnerOptions
from projections.sqlite.projection_file import ProjectionFile
from projections.sqlite.rebuild_process import rebuild_in_subprocess

if TYPE_CHECKING:
    from projections.postgres.node_projections import NodeProjections


def create_runner(
    path: str | Path,
    log: NotifyingLog,
    observer: ProjectionObserver | None = None,
    options: RunnerOptions | None = None,
    on_available: Callable[[bool], None] | None = None,
) -> ProjectionRunner:
    """A runner, not started yet, that keeps the projections of `log` in the file at `path`. `on_available` as for
    ProjectionFile.
    """
    file, options = Path(path), options or RunnerOptions()
    rebuild = None
    if options.log_location is not None:
        rebuild = partial(rebuild_in_subprocess, options.log_location, file, options.batch_max)
    return ProjectionRunner(ProjectionFile(file, on_available), log, observer, options, rebuild)


def create_projections(
    path: Path | None,
    log: EventLog,
    observer: ProjectionObserver | None = None,
    options: RunnerOptions | None = None,
) -> "ProjectionRunner | NodeProjections":
    """The projections of `log`, not started yet: in the file at `path`, or (None) in the database of a PostgreSQL log,
    which its nodes share.
    """
    if path is not None:
        if not isinstance(log, SqliteLog):
            raise TypeError("only a log in a file of this process has its projections in one")
        return create_runner(path, log, observer, options)
    from events.storage.postgres.postgres_log import PostgresLog  # noqa: PLC0415  asyncpg is optional
    from projections.postgres.node_projections import NodeProjections  # noqa: PLC0415  asyncpg is optional

    if not isinstance(log, PostgresLog):
        raise TypeError("only a log in PostgreSQL has its projections there")
    return NodeProjections(log, log.database, log.pool, observer, options)


async def rebuild_in_database(
    url: str, log: EventLog, batch_max: int, on_progress: Callable[[int], None]
) -> tuple[int, bool]:
    """Rebuild the projections that the nodes of the PostgreSQL log at `url` share: as `rebuild_tables`."""
    from events.storage.postgres.postgres_connection import Database  # noqa: PLC0415  asyncpg is optional
    from projections.postgres.table_rebuild import rebuild_tables  # noqa: PLC0415  asyncpg is optional

    return await rebuild_tables(Database(url, LogOptions()), log, batch_max, on_progress)
