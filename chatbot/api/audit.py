"""What proves the log over HTTP: its head, and walks along its chain."""

from typing import cast

from aiohttp import web

from chatbot.api.answer import json_answer
from chatbot.api.audit_views import ChainFault, LogHeadView, WalkView
from chatbot.api.auditors import require_auditor
from chatbot.api.bodies import check_query, query_int
from chatbot.api.half_close import cancel_when_client_leaves
from chatbot.api.open_streams import OpenStreams
from chatbot.api.services import SERVICES
from chatbot.audit.proving import origin_of
from chatbot.sessions.leisure import Leisure, LeisurelyLog
from events.chain import GENESIS
from events.log import EventLog
from events.record import Head
from events.verify import Walk, verify

WALKS_MAX = 2  # at once: they share the little time that LEISURE gives to big work
WALKS: web.AppKey[OpenStreams] = web.AppKey("walks", OpenStreams)
LEISURE: web.AppKey[Leisure] = web.AppKey("leisure", Leisure)  # of walks, trails and exports together
routes = web.RouteTableDef()


@routes.get("/api/audit/head")
async def head(request: web.Request) -> web.Response:
    require_auditor(request)
    log = request.app[SERVICES].log
    newest = log.head()
    return json_answer(LogHeadView(newest.position, newest.digest.hex(), await origin_of(log)))


@routes.get("/api/audit/verify", allow_head=False)
async def verify_span(request: web.Request) -> web.Response:
    """Leaving ends the walk: the handler is cancelled between two of its pages."""
    require_auditor(request)
    check_query(request, frozenset({"from", "to"}))
    cancel_when_client_leaves(request)
    log = request.app[SERVICES].log
    newest = log.head()
    end = query_int(request, "to", newest.position, 0, newest.position)
    start = query_int(request, "from", 0, 0, end)
    with request.app[WALKS].another():
        leisurely = LeisurelyLog(log, request.app[LEISURE])
        return json_answer(await _walk(leisurely, start, end, newest))


async def _walk(log: LeisurelyLog, start: int, end: int, newest: Head) -> WalkView:
    """The digest stored at `start` is trusted. Where the walk reaches the head, the head in memory must agree."""
    trusted = None
    if start:
        here = await log.rows(after=start - 1, limit=1)
        trusted = Head(start, here[0].digest if here else GENESIS)
    anchored = Walk(newest if end == newest.position else None, trusted)
    walk, fault = await verify(cast(EventLog, log), anchored, log.passed, until=end)  # it asks for rows alone
    return WalkView(
        holds=fault is None,
        start=start,
        end=end,
        events=walk.position - start,
        erased=walk.erased,
        digest=walk.digest.hex(),
        fault=ChainFault(fault.position, fault.reason) if fault else None,
        unfinished_erasures=len(walk.leftovers),
    )
