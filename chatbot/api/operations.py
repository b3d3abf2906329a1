"""For operators: health, readiness, metrics, usage."""

import asyncio
import re

from aiohttp import web

from chatbot.api.answer import json_answer
from chatbot.api.bodies import BodyFault, check_query
from chatbot.api.middleware import ASKER
from chatbot.api.services import SERVICES, Services
from chatbot.api.views import HealthView, UsageRow, UsageView, timestamp
from events.errors import LogError

DATABASE_TIMEOUT_S = 2.0  # a database that answers later is as good as gone to whoever asks
routes = web.RouteTableDef()


@routes.get("/api/health")
async def health(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    connected = await _database_answers(services)
    model = services.health.newest
    if not connected:
        status = "unhealthy"
    else:
        status = "healthy" if model.available else "degraded"
    view = HealthView(
        status=status,  # type: ignore[arg-type]  # one of the three words above
        timestamp=timestamp(services.clock()),
        llm_server_available=model.available,
        database_connected=connected,
        version=services.version,
        provider=services.provider.name,
    )
    return json_answer(view, status=200 if connected else 503)


@routes.get("/livez")
async def livez(_: web.Request) -> web.Response:
    return json_answer({"status": "alive"})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    state = services.readiness.state
    if state == "ready" and services.runner.rebuilding:
        state = "rebuilding"
    if state == "ready" and services.runner.failure is not None:
        state = "failed"
    return json_answer({"status": state}, status=200 if state == "ready" else 503)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    services.metrics.sessions(await services.queries.counts_by_status())
    services.metrics.projection_lag(services.runner.lag, services.runner.lag_s)
    gate = services.gate
    services.metrics.model(
        available=services.health.newest.available, running=gate.running, waiting=gate.waiting
    )
    body, content_type = services.metrics.render(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


@routes.get("/api/usage")
async def usage(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    check_query(request, frozenset({"by", "from", "to"}))
    by = request.query.get("by", "day")
    if by not in ("day", "owner", "model"):
        raise BodyFault("must be day, owner or model", "query.by")
    first, last = (_day(request, name) for name in ("from", "to"))
    await services.reader.catch_up()
    owner = request[ASKER].owner if services.settings.auth.keys else None
    totals = await services.queries.usage(by=by, first_day=first, last_day=last, owner=owner)
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
    return json_answer(UsageView(by, rows))  # type: ignore[arg-type]  # one of the three words above


async def _database_answers(services: Services) -> bool:
    try:
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            await services.log.read_all(after=services.log.head().position, limit=1)
    except (TimeoutError, LogError):
        return False
    return True


def _day(request: web.Request, name: str) -> str | None:
    text = request.query.get(name)
    if text is not None and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        raise BodyFault("must be a day such as 2026-01-31", f"query.{name}")
    return text
