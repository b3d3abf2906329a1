"""From listening to ready."""

import asyncio
import os
from contextlib import suppress

import structlog

from chatbot.api.services import Services
from chatbot.llm.embedded_process import EmbeddedMissing
from chatbot.llm.health import HealthMonitor
from chatbot.sessions.owners import check_owners
from chatbot.workers.worker import Worker
from events.errors import LogUnusable
from projections.errors import ProjectionLag, ProjectionsStopped

LOOK_S = 1.0  # between looks at projections that are catching up
MODEL_LOOK_S = 0.05  # between looks at a model that is being loaded


async def start_up(services: Services, url: str, worker: Worker | None = None) -> None:
    """Bring the projections up to the log, close what a crash left open, have the embedded model loaded, then be ready.

    Raises LogUnusable, OwnersWithoutKeys, EmbeddedMissing.
    """
    logger = structlog.get_logger("run")
    database = services.settings.database
    where = database.shown if database.is_postgres else str(database.path.absolute())
    logger.info("server.listening", url=url, database=where)
    while services.runner.rebuilding and services.runner.failure is None:
        with suppress(ProjectionLag, ProjectionsStopped):
            await services.runner.wait_for(services.log.head().position, timeout_s=LOOK_S)
        await asyncio.sleep(0)  # of an empty log there is nothing to wait for, while its file is made anew
    if services.runner.failure is not None:
        raise LogUnusable(f"the log cannot be understood: {services.runner.failure}") from services.runner.failure
    await check_owners(services.log, services.queries, services.settings.auth)
    # Of a log that is shared, replies that are open may be running elsewhere: there the watch looks for what is left.
    recovered = 0 if services.log.is_shared else await services.supervisor.recover()
    if services.provider.name == "embedded":
        await _model_loaded(services.health)
    services.readiness.state = "ready"
    if worker is not None:
        logger.info("worker.ready", pid=os.getpid(), recovered_sessions=recovered)
        worker.control.ready(services.nodes.name or "")
        return
    logger.info("server.ready", url=url, docs=f"{url}/docs", recovered_sessions=recovered)


async def _model_loaded(health: HealthMonitor) -> None:
    """Wait until the embedded model is loaded, or is to be loaded again. Raises EmbeddedMissing where it cannot be."""
    await health.refresh()
    while health.newest.starting:
        await asyncio.sleep(MODEL_LOOK_S)
        await health.refresh()
    if health.newest.unusable:
        raise EmbeddedMissing(health.newest.detail)
