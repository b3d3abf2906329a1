"""The projections of a process that serves clients."""

from typing import TYPE_CHECKING

from chatbot.config.settings import Settings
from chatbot.observability.metric_families import MetricFamily, decode
from chatbot.observability.metrics import ProjectionMetrics
from chatbot.workers.worker import Worker
from chatbot.writer.storage_options import METRICS_REQUEST, runner_options
from chatbot.writer.unused_projections import delete_unused_files
from events.log import EventLog
from events.remote.remote_log import RemoteLog
from projections.factory import create_projections
from projections.runner import ProjectionRunner
from projections.shared.projection_follower import ProjectionFollower
from projections.shared.shared_progress import SharedProgress

if TYPE_CHECKING:
    from projections.postgres.node_projections import NodeProjections


async def open_projections(
    settings: Settings, log: EventLog, observer: ProjectionMetrics, worker: Worker | None
) -> "ProjectionRunner | ProjectionFollower | NodeProjections":
    """The projections, not started: those that the writer process or the nodes of a database keep, or this process."""
    path = settings.database.projections
    if isinstance(log, RemoteLog) and worker is not None and worker.writer is not None:
        progress = SharedProgress(worker.writer.progress)
        return ProjectionFollower(path, log, log, progress, wait_s=runner_options(settings).wait_s)
    if settings.database.is_postgres:
        return create_projections(None, log, observer, runner_options(settings))
    await delete_unused_files(path)
    return create_projections(path, log, observer, runner_options(settings))


async def fetch_writer_metrics(log: RemoteLog) -> tuple[MetricFamily, ...]:
    """The metrics of the writer process. Raises LogUnavailable, msgspec.DecodeError."""
    return decode(await log.request(METRICS_REQUEST))
