"""For operators: health, readiness, metrics, usage."""

import asyncio
import re
from datetime import date
from typing import Literal

from aiohttp import web

from chatbot.api.middleware import CALLER, is_auditor
from chatbot.api.openapi.schemas import ReadinessView
from chatbot.api.readiness import NOT_READY_REASONS, READY, WRITE_PROBE, can_read, log_answers, readiness_state
from chatbot.api.request_bodies import RequestFault, check_query
from chatbot.api.response_bodies import HealthView, UsageRow, UsageView
from chatbot.api.responses import json_response, piecewise_body
from chatbot.api.services import SERVICES, Services
from chatbot.observability.metric_families import MetricFamily, families_of
from chatbot.runtime.timestamps import timestamp
from projections.errors import ProjectionError

routes = web.RouteTableDef()


@routes.get("/api/health")
async def health(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    connected = await log_answers(services)
    model = services.health.newest
    working: Literal["healthy", "degraded"] = "degraded"
    unknown = services.runner.unknown_event
    is_writable = unknown is None and await can_read(services) and await request.app[WRITE_PROBE].is_writable()
    if model.available and is_writable:
        working = "healthy"
    view = HealthView(
        status=working if connected else "unhealthy",
        timestamp=timestamp(services.clock()),
        llm_server_available=model.available,
        database_connected=connected,
        version=services.version,
        provider=services.provider.name,
        detail=str(unknown) if unknown is not None else _model_fault(request),
    )
    return json_response(view, status=200 if connected else 503)


def _model_fault(request: web.Request) -> str | None:
    """What was asked of the model server and why it failed: for the operator, as it names a host of theirs."""
    model = request.app[SERVICES].health.newest
    return model.detail if not model.available and is_auditor(request) else None


@routes.get("/livez")
async def livez(_: web.Request) -> web.Response:
    return json_response({"status": "alive"})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    state = await readiness_state(services, request.app[WRITE_PROBE])
    view = ReadinessView(state, NOT_READY_REASONS.get(state))  # type: ignore[arg-type]  # one of the words
    return json_response(view, status=200 if state == READY else 503)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    services, accept = request.app[SERVICES], request.headers.get("Accept", "")
    if services.metrics_aggregator is not None:
        body, content_type = await services.metrics_aggregator.merged(await collect_metrics(services), accept)
    else:
        await _refresh_gauges(services)
        # In a thread: the process's own figures are read from files, and the text of many series takes a while.
        body, content_type = await asyncio.to_thread(services.metrics.render, accept)
    return web.Response(body=piecewise_body(body), headers={"Content-Type": content_type})


async def collect_metrics(services: Services) -> tuple[MetricFamily, ...]:
    """What this process has to say, for one that answers for all workers."""
    await _refresh_gauges(services)
    return await asyncio.to_thread(families_of, services.metrics.registry)


async def _refresh_gauges(services: Services) -> None:
    """Set what is not counted as it happens."""
    services.metrics.sessions(await _session_counts(services))
    services.metrics.projection_lag(services.runner.lag, await _lag_s(services))
    services.metrics.outdated(is_outdated=services.runner.unknown_event is not None)
    pending = services.log.erasure_pending or services.erasures.pending or services.log_metrics.incomplete_erasures
    services.metrics.erasure_pending(pending=bool(pending))
    if services.log_writer is not None:
        services.metrics.log_lines_dropped(services.log_writer.dropped)
    gate = services.limiter
    services.metrics.model(available=services.health.newest.available, running=gate.running, waiting=gate.waiting)


@routes.get("/api/usage")
async def usage(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    check_query(request, frozenset({"by", "from", "to"}))
    by = request.query.get("by", "day")
    if by not in ("day", "owner", "model"):
        raise RequestFault("must be day, owner or model", "query.by")
    first, last = _query_day(request, "from", "0000-01-01"), _query_day(request, "to", "9999-12-31")
    await services.reader.catch_up()
    owner = request[CALLER].owner if services.settings.auth.keys else None
    totals = await services.queries.usage(by, first, last, owner)  # type: ignore[arg-type]  # one of the three words
    rows = [
        UsageRow(
            replies=one.replies,
            prompt_tokens=one.prompt_tokens,
            completion_tokens=one.completion_tokens,
            total_tokens=one.prompt_tokens + one.completion_tokens,
            **{by: one.key},
        )
        for one in totals
    ]
    return json_response(UsageView(by, rows))  # type: ignore[arg-type]  # one of the three words above


async def _session_counts(services: Services) -> dict[str, int]:
    """Sessions by status; none while the projections cannot be read: the other metrics matter most then."""
    try:
        return await services.queries.counts()
    except ProjectionError:
        return {}


async def _lag_s(services: Services) -> float:
    """How long the oldest event that is not folded has been in the log."""
    if services.runner.lag == 0:
        return 0.0
    waiting = await services.log.rows(after=services.runner.position, limit=1)  # undecoded: it may be a newer program's
    return max(0.0, (services.clock() - waiting[0].recorded_at_us) / 1e6) if waiting else 0.0


def _query_day(request: web.Request, name: str, default: str) -> str:
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise RequestFault("must be a day such as 2026-01-31", f"query.{name}")
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise RequestFault("names a day that no calendar has", f"query.{name}") from None
