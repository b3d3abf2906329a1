"""The metrics of this process at the time of a scrape: gauges that are not updated as things happen are set first."""

import asyncio
from contextlib import suppress

from chatbot.api.services import Services
from chatbot.observability.anchor_metrics import AnchorMetrics
from chatbot.observability.metric_families import MetricFamily, families_of
from events.errors import LogUnavailable
from projections.errors import ProjectionError


async def collect_metrics(services: Services) -> tuple[MetricFamily, ...]:
    """The metrics of this process, for the worker that merges those of all."""
    await refresh_gauges(services)
    return await asyncio.to_thread(families_of, services.metrics.registry)


async def refresh_gauges(services: Services) -> None:
    """Set the gauges whose values are not updated as they change."""
    services.metrics.in_flight.set(services.readiness.open_requests)
    services.metrics.sessions(await _session_counts(services))
    services.metrics.projection_lag(services.runner.lag, await _lag_s(services))
    services.metrics.outdated(is_outdated=services.runner.unknown_event is not None)
    services.metrics.keys_outdated(is_outdated=not services.keys.is_current)
    services.metrics.oldest_append(services.log.oldest_append_s)
    pending = services.log.erasure_pending or services.erasures.pending or services.log_metrics.incomplete_erasures
    services.metrics.erasure_pending(pending=bool(pending))
    with suppress(LogUnavailable):
        services.metrics.holds(len((await services.holds.read()).holds))
    if services.anchoring.schedule is not None:
        AnchorMetrics(services.metrics).refresh(services.anchoring.schedule.status())
    if services.log_writer is not None:
        services.metrics.log_lines_dropped(services.log_writer.dropped)
    limiter = services.limiter
    is_available = services.health.newest.available
    services.metrics.model(
        available=is_available,
        running=limiter.running,
        waiting=limiter.waiting,
        owners_waiting=limiter.owners_waiting,
    )
    if services.servers is not None:
        for server in services.servers.statuses:
            services.metrics.llm_server(server)


async def _session_counts(services: Services) -> dict[str, int]:
    """Sessions by status; none if the projections cannot be read, when the other metrics matter most."""
    try:
        return await services.queries.counts()
    except ProjectionError:
        return {}


async def _lag_s(services: Services) -> float:
    """Seconds since the oldest event that the projections have not folded was appended."""
    if services.runner.lag == 0:
        return 0.0
    waiting = await services.log.rows(
        after=services.runner.position, limit=1
    )  # not decoded: it may be of a newer version
    return max(0.0, (services.clock() - waiting[0].recorded_at_us) / 1e6) if waiting else 0.0
