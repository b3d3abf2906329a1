"""What a worker has of the process that writes the log: its projections and its metrics."""

from chatbot.config.settings import Settings
from chatbot.observability.metric_families import MetricFamily, decode
from chatbot.workers.worker import Worker
from chatbot.writer.storage_options import METRICS_REQUEST, runner_options
from events.log import EventLog
from events.remote.remote_log import RemoteLog
from projections.shared.projection_follower import ProjectionFollower
from projections.shared.shared_progress import SharedProgress


def follow_writer(settings: Settings, log: EventLog, worker: Worker | None) -> ProjectionFollower | None:
    """The projections that the writer process keeps, not started; None if this process has no writer."""
    if not isinstance(log, RemoteLog) or worker is None or worker.writer is None:
        return None
    progress = SharedProgress(worker.writer.progress)
    wait_s = runner_options(settings).wait_s
    return ProjectionFollower(settings.database.projections, log, log, progress, wait_s=wait_s)


async def fetch_writer_metrics(log: RemoteLog) -> tuple[MetricFamily, ...]:
    """The metrics of the writer process. Raises LogUnavailable, msgspec.DecodeError."""
    return decode(await log.request(METRICS_REQUEST))
