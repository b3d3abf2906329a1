"""Monitoring: health, readiness, metrics, usage, and the models to choose from."""

import asyncio
import re
from datetime import date
from typing import Literal

from aiohttp import web
from msgspec import UNSET

from chatbot.api.access.authorization import CALLER, is_auditor
from chatbot.api.metrics_snapshot import collect_metrics, refresh_gauges
from chatbot.api.problems import RequestFault
from chatbot.api.readiness import READY, WRITE_PROBE, can_read, log_answers, not_ready_reason, readiness_state
from chatbot.api.request_queries import check_query, query_choice
from chatbot.api.response_bodies import (
    HealthView,
    ModelsView,
    ModelView,
    ReadinessView,
    ServerView,
    UsageRow,
    UsageView,
)
from chatbot.api.responses import json_response, piecewise_body
from chatbot.api.services import SERVICES, Services
from chatbot.llm.servers.server_pool import ServerPool
from chatbot.runtime.clock import timestamp

GROUPINGS: tuple[Literal["day", "owner", "model"], ...] = ("day", "owner", "model")
routes = web.RouteTableDef()


@routes.get("/api/health")
async def health(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    connected = await log_answers(services)
    model = services.health.newest
    unknown = services.runner.unknown_event
    can_serve = unknown is None and await can_read(services) and await request.app[WRITE_PROBE].is_writable()
    anchor_fault = services.anchoring.fault
    is_healthy = model.available and can_serve and anchor_fault is None
    working: Literal["healthy", "degraded"] = "healthy" if is_healthy else "degraded"
    view = HealthView(
        status=working if connected else "unhealthy",
        timestamp=timestamp(services.clock()),
        llm_server_available=model.available,
        database_connected=connected,
        version=services.version,
        provider=services.provider.name,
        detail=str(unknown) if unknown is not None else anchor_fault or _model_fault(request),
        llm_server_state="available" if model.available else "loading" if model.loading else "unavailable",
        llm_servers=UNSET if services.servers is None else _server_views(request, services.servers),
    )
    return json_response(view, status=200 if connected else 503)


def _server_views(request: web.Request, pool: ServerPool) -> list[ServerView]:
    """Details are for auditors only, because they name hosts."""
    with_details = is_auditor(request)
    return [
        ServerView(
            name=one.name,
            available=one.state == "available",
            state=one.state,
            models=one.models,
            detail=(one.detail or None) if with_details else None,
        )
        for one in pool.statuses
    ]


def _model_fault(request: web.Request) -> str | None:
    """Why the last health check of the model server failed. For auditors only, because it names a host."""
    model = request.app[SERVICES].health.newest
    return model.detail if not model.available and is_auditor(request) else None


@routes.get("/livez")
async def livez(_: web.Request) -> web.Response:
    return json_response({"status": "alive"})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    state = await readiness_state(services, request.app[WRITE_PROBE])
    view = ReadinessView(state, not_ready_reason(state, request.app[WRITE_PROBE]))
    return json_response(view, status=200 if state == READY else 503)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    services, accept = request.app[SERVICES], request.headers.get("Accept", "")
    if services.metrics_aggregator is not None:
        body, content_type = await services.metrics_aggregator.merged(await collect_metrics(services), accept)
    else:
        await refresh_gauges(services)
        # In a thread: the process's own figures are read from files, and rendering many series takes long.
        body, content_type = await asyncio.to_thread(services.metrics.render, accept)
    return web.Response(body=piecewise_body(body), headers={"Content-Type": content_type})


@routes.get("/api/usage")
async def usage(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    check_query(request, frozenset({"by", "from", "to"}))
    by = query_choice(request, "by", GROUPINGS)
    first, last = _query_day(request, "from", "0000-01-01"), _query_day(request, "to", "9999-12-31")
    await services.session_queries.catch_up()
    owner = request[CALLER].owner
    totals = await services.queries.usage(by, first, last, owner)
    rows = [
        UsageRow(
            replies=one.replies,
            prompt_tokens=one.prompt_tokens,
            completion_tokens=one.completion_tokens,
            total_tokens=one.prompt_tokens + one.completion_tokens,
            reasoning_tokens=one.reasoning_tokens,
            cached_tokens=one.cached_tokens,
            **{by: one.key},
        )
        for one in totals
    ]
    return json_response(UsageView(by, rows))


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


@routes.get("/api/models")
async def models(request: web.Request) -> web.Response:
    """As of the last health check, so that this call does not reach the model server."""
    check_query(request, frozenset())
    return json_response(models_view(request.app[SERVICES]))


def models_view(services: Services) -> ModelsView:
    """Empty if nothing is known about the model server yet."""
    provider = services.provider
    default = provider.model
    names = sorted(provider.models - {default})
    listed = [
        ModelView(name, default=name == default, suggested_max_new_tokens=services.suggested_tokens(name))
        for name in ([default] if default else []) + names
    ]
    return ModelsView(listed, complete=provider.lists_models)
