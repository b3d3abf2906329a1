"""The log over HTTP for auditors: its head, verification of the hash chain, reports on sessions."""

from collections.abc import AsyncIterator
from functools import partial
from typing import cast

from aiohttp import web

from chatbot.api.access.authorization import CALLER, require_auditor
from chatbot.api.access.view_records import VIEWS
from chatbot.api.audit.event_queries import METADATA_PREFIX
from chatbot.api.audit.report_requests import REPORT_PARAMETERS, find_reported, read_selection, report_request
from chatbot.api.audit_response_bodies import ChainFault, LogHeadView, WalkView
from chatbot.api.problems import RequestFault
from chatbot.api.request_limits import EXPORT_LIMIT, THROTTLE, VERIFICATION_LIMIT
from chatbot.api.request_queries import check_query, query_choice, query_int
from chatbot.api.responses import json_response
from chatbot.api.server.connection_limits import cancel_when_client_leaves, count_held_bytes
from chatbot.api.services import SERVICES
from chatbot.api.streaming.document_stream import send_document
from chatbot.audit.report.html_style import POLICY
from chatbot.audit.report.html_writer import HtmlWriter
from chatbot.audit.report.ndjson_writer import NdjsonWriter
from chatbot.audit.report.report_pieces import Report, ReportWriter
from chatbot.audit.session_proof import ProofFailed
from chatbot.runtime.throttle import ThrottledLog
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.hash_chain import GENESIS
from events.integrity.log_identity import log_identity
from events.log import EventLog
from events.record import Head

NAME = "conversations"
REPORT_HEADERS = {
    "html": {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Disposition": f'attachment; filename="{NAME}.html"',
        "Content-Security-Policy": f"{POLICY}; sandbox",  # if a browser shows it here after all
    },
    "ndjson": {
        "Content-Type": "application/x-ndjson",
        "Content-Disposition": f'attachment; filename="{NAME}.ndjson"',
    },
}
routes = web.RouteTableDef()


@routes.get("/api/audit/head")
async def head(request: web.Request) -> web.Response:
    require_auditor(request)
    log = request.app[SERVICES].log
    newest = await log.latest()
    return json_response(LogHeadView(newest.position, newest.digest.hex(), await log_identity(log)))


@routes.get("/api/audit/verify", allow_head=False)
async def verify_span(request: web.Request) -> web.Response:
    """When the client leaves, the handler is cancelled between two pages of the log."""
    require_auditor(request)
    check_query(request, frozenset({"from", "to"}))
    cancel_when_client_leaves(request)
    log = request.app[SERVICES].log
    newest = await log.latest()
    end = query_int(request, "to", newest.position, 0, newest.position)
    start = query_int(request, "from", 0, 0, end)
    with request.app[VERIFICATION_LIMIT].acquire(request[CALLER].owner):
        throttled_log = ThrottledLog(log, request.app[THROTTLE].of(request[CALLER].owner))
        return json_response(await _verify_span(throttled_log, start, end, newest))


@routes.get("/api/audit/report", allow_head=False)
async def report(request: web.Request) -> web.StreamResponse:
    """What is recorded of some sessions, as a page or as lines of JSON. It is not an access."""
    require_auditor(request)
    check_query(request, REPORT_PARAMETERS, METADATA_PREFIX)
    services, form = request.app[SERVICES], query_choice(request, "format", ("html", "ndjson"))
    selection = read_selection(request)
    throttle = request.app[THROTTLE].of(request[CALLER].owner)
    with request.app[EXPORT_LIMIT].acquire(request[CALLER].owner):
        found = await find_reported(services, selection, throttle)
        wanted = report_request(request, services, selection, found)
        if services.settings.auth.record_reads:
            await request.app[VIEWS].record_report(found, request[CALLER])
        writer: ReportWriter = HtmlWriter() if form == "html" else NdjsonWriter()
        hold = partial(count_held_bytes, request)
        pieces = Report(services.log, wanted, writer, throttle, hold).pieces()
        return await send_document(request, _refused_if_unproven(pieces), REPORT_HEADERS[form])


async def _refused_if_unproven(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Raises RequestFault before the first piece where the log is not the one that was signed."""
    try:
        async for piece in pieces:
            yield piece
    except ProofFailed as error:
        raise RequestFault(str(error), "query.checkpoint") from error


async def _verify_span(log: ThrottledLog, start: int, end: int, newest: Head) -> WalkView:
    """Trusts the digest stored at `start`. At the end of the log the head in memory must agree."""
    trusted = None
    if start:
        here = await log.rows(after=start - 1, limit=1)
        trusted = Head(start, here[0].digest if here else GENESIS)
    anchored = ChainVerifier(newest if end == newest.position else None, trusted)
    walk, fault = await verify(cast(EventLog, log), anchored, log.passed, until=end)  # it calls only `rows`
    return WalkView(
        holds=fault is None,
        start=start,
        end=end,
        events=walk.position - start,
        erased=walk.erased,
        digest=walk.digest.hex(),
        fault=ChainFault(fault.position, fault.reason) if fault else None,
        unfinished_erasures=len(walk.incomplete_erasures),
    )
