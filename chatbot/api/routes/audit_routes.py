"""Integrity of the log over HTTP: its head, and verification of the hash chain."""

from typing import cast

from aiohttp import web

from chatbot.api.access.authorization import CALLER, require_auditor
from chatbot.api.audit_response_bodies import ChainFault, LogHeadView, WalkView
from chatbot.api.request_limits import THROTTLE, VERIFICATION_LIMIT
from chatbot.api.request_queries import check_query, query_int
from chatbot.api.responses import json_response
from chatbot.api.server.connection_limits import cancel_when_client_leaves
from chatbot.api.services import SERVICES
from chatbot.runtime.throttle import ThrottledLog
from events.integrity.chain_verifier import ChainVerifier, verify
from events.integrity.hash_chain import GENESIS
from events.integrity.log_identity import log_identity
from events.log import EventLog
from events.record import Head

routes = web.RouteTableDef()


@routes.get("/api/audit/head")
async def head(request: web.Request) -> web.Response:
    require_auditor(request)
    log = request.app[SERVICES].log
    newest = log.head()
    return json_response(LogHeadView(newest.position, newest.digest.hex(), await log_identity(log)))


@routes.get("/api/audit/verify", allow_head=False)
async def verify_span(request: web.Request) -> web.Response:
    """When the client leaves, the handler is cancelled between two pages of the log."""
    require_auditor(request)
    check_query(request, frozenset({"from", "to"}))
    cancel_when_client_leaves(request)
    log = request.app[SERVICES].log
    newest = log.head()
    end = query_int(request, "to", newest.position, 0, newest.position)
    start = query_int(request, "from", 0, 0, end)
    with request.app[VERIFICATION_LIMIT].acquire(request[CALLER].owner):
        throttled_log = ThrottledLog(log, request.app[THROTTLE].of(request[CALLER].owner))
        return json_response(await _verify_span(throttled_log, start, end, newest))


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
