"""Wiring of the projections: the runner over a SQLite store. Only the service's wiring and tools import this."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from events.log import EventLog
from projections.observer import ProjectionObserver
from projections.runner import ProjectionRunner, RunnerOptions
from projections.sqlite.projection_file import ProjectionFile
from projections.sqlite.rebuild_process import rebuild_in_subprocess


def create_runner(
    path: str | Path,
    log: EventLog,
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
