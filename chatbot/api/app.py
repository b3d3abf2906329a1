"""The web application: routes, middleware, and the listener's life."""

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from chatbot.api import (
    audit,
    branches,
    chat,
    documents,
    export,
    feed,
    models,
    operations,
    problem_pages,
    sessions,
    trail,
)
from chatbot.api.audit import LEISURE, WALKS, WALKS_MAX
from chatbot.api.body_budget import BODIES, BodyBudget
from chatbot.api.export import EXPORTS, EXPORTS_MAX
from chatbot.api.http_server import HttpRunner
from chatbot.api.listening_site import ListeningSite
from chatbot.api.middleware import add_headers, gate
from chatbot.api.open_streams import OpenStreams
from chatbot.api.readiness import RECORDING, Recording
from chatbot.api.services import SERVICES, Services
from chatbot.sessions.leisure import Leisure
from chatbot.workers.listening import listen_at, url_of
from chatbot.workers.tally import Share

SHUTDOWN_MIN_S = 0.001  # aiohttp takes 0 for no bound at all


def build_app(services: Services) -> web.Application:
    """Every route of the service. What has a lifetime of its own is started and stopped by chatbot/wiring.py."""
    app = web.Application(middlewares=[gate], client_max_size=services.settings.server.body_max_bytes)
    app[SERVICES] = services
    app[RECORDING] = Recording(services.log, services.log_watch)
    app[WALKS] = OpenStreams(WALKS_MAX, "the chain is being walked for others already")
    app[EXPORTS] = OpenStreams(EXPORTS_MAX, "too many exports are being made already")
    app[LEISURE] = Leisure()
    app[BODIES] = BodyBudget(services.settings.server.bodies_max_bytes)
    app[documents.READING] = asyncio.Lock()
    for module in (sessions, branches, chat, feed, trail, export, audit, models, operations, documents, problem_pages):
        app.add_routes(module.routes)
    app.on_response_prepare.append(add_headers)
    return app


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp's server is about us: strangers' bytes that are no HTTP are answered, not logged."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, BadHttpMessage | web.RequestPayloadError)


async def listen(
    app: web.Application, bound: list[socket.socket], share: Share | None = None
) -> tuple[web.AppRunner, str]:
    """Accept at sockets that are bound, with a `share` of what comes where they are shared with other workers; returns
    the runner, to be cleaned up, and the service's URL. Raises CannotListen.
    """
    runner = await _runner(app)
    listen_at(bound)
    for one in bound:
        await ListeningSite(runner, one, runner.connections, share).start()
    return runner, url_of(bound[0].getsockname())


async def accept_from(listener: socket.socket, app: web.Application) -> web.AppRunner:
    """Start to accept from a socket that is bound already; returns the runner, to be cleaned up."""
    runner = await _runner(app)
    await ListeningSite(runner, listener, runner.connections).start()
    return runner


async def _runner(app: web.Application) -> HttpRunner:
    server = app[SERVICES].settings.server
    logging.getLogger("aiohttp.server").addFilter(is_ours)
    runner = HttpRunner(
        app,
        handler_cancellation=True,  # a reader that has left frees its handler at once; replies live elsewhere
        access_log=None,  # metrics count requests; a line each would cost more than the request
        keepalive_timeout=server.keepalive_timeout_s,
        shutdown_timeout=max(server.feeds_grace_s, SHUTDOWN_MIN_S),
    )
    await runner.setup()
    return runner
