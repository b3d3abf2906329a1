"""The start of the service: warnings before it, and the steps from listening to ready."""

import asyncio
import os
from contextlib import suppress

import structlog

from chatbot.api.services import Services
from chatbot.cli.remedies import with_remedy
from chatbot.config.sections.database_settings import DatabaseSettings
from chatbot.config.settings import Settings
from chatbot.config.validation import find_hints, find_risks
from chatbot.llm.health_monitor import HealthMonitor
from chatbot.llm.providers.embedded_process import EmbeddedMissing
from chatbot.sessions.owner_check import check_owners
from chatbot.workers.worker import Worker
from events.errors import LogUnusable
from events.storage.sqlite.file_aliases import is_mount_point, link_count
from projections.errors import ProjectionLag, ProjectionsStopped

MOUNT_RISK = (
    "database {path} is a mount point: a file mounted by itself has its write-ahead file in another file system, and"
    " whatever was acknowledged since the last checkpoint is lost with that. "
)


def find_file_risks(database: DatabaseSettings) -> tuple[str, ...]:
    """Risks of losing events that the log's file has by its mount or its hard links.

    Raises LogUnusable for a file that must not be served.
    """
    if database.is_postgres:
        return ()
    path = database.path
    risks = []
    try:
        links, is_mounted = link_count(path), is_mount_point(path)
    except OSError as error:
        raise LogUnusable(f"database {path} cannot be looked at: {error.strerror}") from error
    if is_mounted and not database.allow_file_mount:
        raise LogUnusable(
            MOUNT_RISK.format(path=path) + "Mount the folder that holds it, or set database.allow_file_mount = true"
        )
    if is_mounted:
        risks.append(MOUNT_RISK.format(path=path) + "Mount the folder that holds it")
    if links > 1:
        risks.append(
            f"database {path} has {links} names (hard links): a copy of it by another name lacks what is in the"
            " write-ahead file, and a backup that is written to that name destroys the log. Remove the other names"
        )
    return tuple(risks)


def warn_of_risks(settings: Settings, logger: structlog.stdlib.BoundLogger) -> None:
    """Log the risks and hints that the settings alone tell. Raises LogUnusable as `find_file_risks`."""
    for hint in find_hints(settings):
        logger.info("settings.hint", hint=hint)
    for risk in find_file_risks(settings.database):
        logger.warning("database.risk", risk=risk)


PROJECTIONS_POLL_S = 1.0  # between two checks of projections that are catching up
MODEL_POLL_S = 0.05  # between two checks of a model that is being loaded


async def start_up(services: Services, url: str, worker: Worker | None = None) -> None:
    """Wait for the projections to catch up, close replies that a crash left open, wait for the embedded model, then set
    the state to ready.

    Raises LogUnusable, KeysMissing, EmbeddedMissing.
    """
    logger = structlog.get_logger("run")
    database = services.settings.database
    where = database.shown if database.is_postgres else str(database.path.absolute())
    logger.info("server.listening", url=url, database=where)
    while services.runner.rebuilding and services.runner.failure is None:
        with suppress(ProjectionLag, ProjectionsStopped):
            await services.runner.wait_for(services.log.head().position, timeout_s=PROJECTIONS_POLL_S)
        await asyncio.sleep(0)  # for an empty log wait_for returns at once, while the file is being rebuilt
    if services.runner.failure is not None:
        failure = services.runner.failure
        raise LogUnusable(f"the log cannot be understood: {with_remedy(failure)}") from failure
    has_keys = not services.keys.is_open
    await check_owners(services.log, services.queries, services.settings.auth, has_keys=has_keys)
    # In a shared log, open replies may be running on other nodes: there the orphan reaper finds what is left.
    recovered = 0 if services.log.is_shared else await services.supervisor.recover()
    if services.provider.name == "embedded":
        await _wait_for_model(services.health)
    if services.keys.is_open:
        for risk in find_risks(services.settings):
            logger.warning("settings.risk", risk=risk)
    for name in services.keys.unknown_names():
        logger.warning("keys.unknown_name", name=name, effect="settings give rights to a key that does not exist")
    services.readiness.state = "ready"
    if worker is not None:
        logger.info("worker.ready", pid=os.getpid(), recovered_sessions=recovered)
        worker.control.ready(services.cluster.name or "")
        return
    logger.info("server.ready", url=url, docs=f"{url}/docs", recovered_sessions=recovered)


async def _wait_for_model(health: HealthMonitor) -> None:
    """Wait until the embedded model is loaded, or will be tried again later. Raises EmbeddedMissing if unusable."""
    await health.refresh()
    while health.newest.starting:
        await asyncio.sleep(MODEL_POLL_S)
        await health.refresh()
    if health.newest.unusable:
        raise EmbeddedMissing(health.newest.detail)
