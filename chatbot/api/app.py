"""The web application: routes, middleware, and the listener's life."""

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from chatbot.api.middleware import add_headers, gate
from chatbot.api.readiness import WRITE_PROBE, WriteProbe
from chatbot.api.request_limits import BODIES, BodyBudget, StreamLimit
from chatbot.api.routes import (
    audit_routes,
    branch_routes,
    chat_routes,
    documentation_routes,
    event_history_routes,
    export_routes,
    feed_routes,
    model_routes,
    monitoring_routes,
    problem_page_routes,
    session_routes,
)
from chatbot.api.routes.audit_routes import THROTTLE, VERIFICATION_LIMIT, VERIFICATIONS_MAX
from chatbot.api.routes.export_routes import EXPORT_LIMIT, EXPORTS_MAX
from chatbot.api.server.http_server import HttpRunner
from chatbot.api.server.shared_listener import SharedListener
from chatbot.api.services import SERVICES, Services
from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.workers.connection_counts import FairShare
from chatbot.workers.server_sockets import service_url, start_listening

SHUTDOWN_MIN_S = 0.001  # aiohttp takes 0 for no bound at all


def build_app(services: Services) -> web.Application:
    """Every route of the service. What has a lifetime of its own is started and stopped by chatbot/wiring.py."""
    app = web.Application(middlewares=[gate], client_max_size=services.settings.server.body_max_bytes)
    app[SERVICES] = services
    app[WRITE_PROBE] = WriteProbe(services.log, services.log_metrics)
    app[VERIFICATION_LIMIT] = StreamLimit(VERIFICATIONS_MAX, "the chain is being walked for others already")
    app[EXPORT_LIMIT] = StreamLimit(EXPORTS_MAX, "too many exports are being made already")
    app[THROTTLE] = DutyCycleThrottle()
    app[BODIES] = BodyBudget(services.settings.server.bodies_max_bytes)
    app[documentation_routes.FILE_LOCK] = asyncio.Lock()
    for module in (
        session_routes,
        branch_routes,
        chat_routes,
        feed_routes,
        event_history_routes,
        export_routes,
        audit_routes,
        model_routes,
        monitoring_routes,
        documentation_routes,
        problem_page_routes,
    ):
        app.add_routes(module.routes)
    app.on_response_prepare.append(add_headers)
    return app


def is_internal_failure(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp's server is about us: strangers' bytes that are no HTTP are answered, not logged."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, BadHttpMessage | web.RequestPayloadError)


async def listen(
    app: web.Application, bound: list[socket.socket], share: FairShare | None = None
) -> tuple[web.AppRunner, str]:
    """Accept at sockets that are bound, with a `share` of what comes where they are shared with other workers; returns
    the runner, to be cleaned up, and the service's URL. Raises CannotListen.
    """
    runner = await _make_runner(app)
    start_listening(bound)
    for one in bound:
        await SharedListener(runner, one, runner.connections, share).start()
    return runner, service_url(bound[0].getsockname())


async def listen_on_socket(listener: socket.socket, app: web.Application) -> web.AppRunner:
    """Start to accept from a socket that is bound already; returns the runner, to be cleaned up."""
    runner = await _make_runner(app)
    await SharedListener(runner, listener, runner.connections).start()
    return runner


async def _make_runner(app: web.Application) -> HttpRunner:
    server = app[SERVICES].settings.server
    logging.getLogger("aiohttp.server").addFilter(is_internal_failure)
    runner = HttpRunner(
        app,
        handler_cancellation=True,  # a reader that has left frees its handler at once; replies live elsewhere
        access_log=None,  # metrics count requests; a line each would cost more than the request
        keepalive_timeout=server.keepalive_timeout_s,
        shutdown_timeout=max(server.feeds_grace_s, SHUTDOWN_MIN_S),
    )
    await runner.setup()
    return runner
