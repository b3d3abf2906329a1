"""The web application: routes, middleware, and the start of its listeners."""

import asyncio
import logging
import socket
import time

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from chatbot.api.access.access_log import ACCESS_LOG, AccessLog
from chatbot.api.access.failed_attempts import FAILED_ATTEMPTS, FailedAttempts
from chatbot.api.access.view_records import VIEWS, ViewRecorder
from chatbot.api.erasure import erasure_routes, hold_routes, redaction_routes
from chatbot.api.media.media_uploads import UPLOADS, MediaUploads
from chatbot.api.middleware import add_headers, serve_request
from chatbot.api.openai_responses import conversation_routes, response_creation, response_routes
from chatbot.api.openapi.document import build_openapi_document
from chatbot.api.readiness import WRITE_PROBE, WriteProbe
from chatbot.api.request_limits import (
    BODIES,
    ERASURE_LIMIT,
    ERASURES_MAX,
    EXPORT_LIMIT,
    EXPORTS_MAX,
    THROTTLE,
    VERIFICATION_LIMIT,
    VERIFICATIONS_MAX,
    WITNESS_RATE,
    BodyBudget,
)
from chatbot.api.routes import (
    audit_routes,
    branch_routes,
    chat_routes,
    completion_routes,
    documentation_routes,
    event_history_routes,
    export_routes,
    feed_routes,
    key_routes,
    media_routes,
    monitoring_routes,
    page_routes,
    problem_page_routes,
    session_list_routes,
    session_routes,
    ticket_routes,
    witness_routes,
)
from chatbot.api.server.connection_limits import StreamLimit
from chatbot.api.server.http_server import HttpRunner
from chatbot.api.server.shared_listener import SharedListener
from chatbot.api.services import SERVE, SERVICES, Services
from chatbot.api.streaming.feed_writer import FEED_SOURCES
from chatbot.api.streaming.response_stream import STREAMS, StreamContext
from chatbot.api.ui_protocols import agui_routes, ui_chat_routes
from chatbot.api.v1.left_replies import DETACHED_TASKS
from chatbot.api.v1.optional_tools import ToolRefusals
from chatbot.api.v1.refused_tools import TOOL_REFUSALS
from chatbot.runtime.rate_limit import RateLimit
from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.workers.connection_counts import FairShare
from chatbot.workers.server_sockets import service_url, start_listening

SHUTDOWN_MIN_S = 0.001  # aiohttp treats 0 as no limit


def build_app(services: Services) -> web.Application:
    """The application with all routes. chatbot/wiring.py starts and stops the parts in `services`."""
    app = web.Application(client_max_size=services.settings.server.body_max_bytes)
    app[SERVICES] = services
    app[SERVE] = serve_request
    is_logged = services.settings.logging.access_log
    app[ACCESS_LOG] = AccessLog(services.settings, services.logger, services.log_writer, is_on=is_logged)
    if services.settings.auth.record_reads:
        app[VIEWS] = ViewRecorder(
            services.session_queries.find_recorded,
            services.supervisor.ask,
            services.clock,
            services.settings.sessions.access_resolution_s,
        )
    app[FAILED_ATTEMPTS] = FailedAttempts(services.settings, services.metrics, services.logger)
    streams = app[STREAMS] = StreamContext.create(services.settings, services.keys, services.metrics, services.logger)
    app[FEED_SOURCES] = feed_routes.make_feed_sources(services, streams.flush_scheduler)
    app[WRITE_PROBE] = WriteProbe(services.log, services.log_metrics, has_writer=services.has_writer)
    server = services.settings.server
    app[VERIFICATION_LIMIT] = StreamLimit(
        VERIFICATIONS_MAX, "the chain is being walked already", server.owner_verifications_max
    )
    app[EXPORT_LIMIT] = StreamLimit(EXPORTS_MAX, "too many exports are being made already", server.owner_exports_max)
    app[ERASURE_LIMIT] = StreamLimit(ERASURES_MAX, "too many requests erase many sessions already")
    app[WITNESS_RATE] = RateLimit(services.settings.witness.requests_per_minute)
    app[THROTTLE] = DutyCycleThrottle()
    app[DETACHED_TASKS] = set()
    app[TOOL_REFUSALS] = ToolRefusals(time.monotonic)
    app[UPLOADS] = MediaUploads(services.settings.media)
    app[BODIES] = BodyBudget(server.request_bodies_total_max_bytes)
    app[documentation_routes.DOCUMENT_BUILDER] = build_openapi_document
    app[documentation_routes.FILE_LOCK] = asyncio.Lock()
    app[page_routes.PAGE_CACHE] = page_routes.PageCache(asyncio.Lock())
    for module in (
        session_list_routes,
        session_routes,
        branch_routes,
        chat_routes,
        completion_routes,
        response_creation,
        response_routes,
        conversation_routes,
        ui_chat_routes,
        agui_routes,
        feed_routes,
        media_routes,
        ticket_routes,
        erasure_routes,
        hold_routes,
        redaction_routes,
        key_routes,
        event_history_routes,
        export_routes,
        audit_routes,
        witness_routes,
        monitoring_routes,
        documentation_routes,
        page_routes,
        problem_page_routes,
    ):
        app.add_routes(module.routes)
    app.on_response_prepare.append(add_headers)
    return app


def is_internal_failure(record: logging.LogRecord) -> bool:
    """Whether aiohttp logs a fault of the service. Invalid HTTP from clients is answered, not logged."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, BadHttpMessage | web.RequestPayloadError)


async def listen(
    app: web.Application, bound: list[socket.socket], share: FairShare | None = None
) -> tuple[web.AppRunner, str]:
    """Accept connections at bound sockets, with a `share` of them if other workers accept at the same sockets.

    Returns the runner, to be cleaned up, and the service's URL. Raises CannotListen.
    """
    runner = await _make_runner(app)
    start_listening(bound)
    for one in bound:
        await SharedListener(runner, one, runner.connections, share).start()
    return runner, service_url(bound[0].getsockname())


async def listen_on_socket(listener: socket.socket, app: web.Application) -> web.AppRunner:
    """Accept connections at a bound socket; returns the runner, to be cleaned up."""
    runner = await _make_runner(app)
    await SharedListener(runner, listener, runner.connections).start()
    return runner


async def _make_runner(app: web.Application) -> HttpRunner:
    server = app[SERVICES].settings.server
    logging.getLogger("aiohttp.server").addFilter(is_internal_failure)
    runner = HttpRunner(
        app,
        handler_cancellation=True,  # when a client leaves its handler ends; replies run in tasks of their own
        access_log=None,  # aiohttp's has the path and the query in it; see access/access_log.py
        keepalive_timeout=server.keepalive_timeout_s,
        shutdown_timeout=max(server.stream_close_timeout_s, SHUTDOWN_MIN_S),
    )
    await runner.setup()
    return runner
