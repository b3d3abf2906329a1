"""Receipts of erasures, and erasing many sessions of any owner: for a privacy officer's key, with the scope erase."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from aiohttp import web
from msgspec.json import encode

from chatbot.api.access.authorization import CALLER, PRINCIPAL, erasing_caller
from chatbot.api.erasure.bulk_erasure import BulkCriteria, BulkErasure
from chatbot.api.erasure.erasure_bodies import EraseAnswer, EraseBody, EraseLine, check_explanation
from chatbot.api.problems import Problem, RequestFault
from chatbot.api.request_limits import ERASURE_LIMIT, THROTTLE
from chatbot.api.request_queries import check_query
from chatbot.api.requests import canonical_id, read_body, session_id_of
from chatbot.api.response_bodies import ErasureView
from chatbot.api.responses import json_response
from chatbot.api.services import SERVICES, Services
from chatbot.api.streaming.document_stream import json_document, send_document
from chatbot.audit.receipt import read_receipt, receipt_of
from chatbot.keys.scopes import AUDIT, ERASE
from chatbot.runtime.clock import timestamp
from chatbot.sessions.domain.commands import DeleteSession
from chatbot.sessions.ticket_erasure import erase_ticket
from events.catalogue import SessionExpired
from events.record import Metadata

NDJSON = "application/x-ndjson"
REASON = "erasure: request"  # what is recorded, beside the code that the request names
BEGUN_EVENTS_MAX = 100  # of a session, newest first: only copied texts follow the event that begins its erasure
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
routes = web.RouteTableDef()


@routes.get("/api/sessions/{session_id}/receipt")
async def read(request: web.Request) -> web.Response:
    services, session_id = request.app[SERVICES], session_id_of(request)
    check_query(request, frozenset())
    of_any_owner = not {AUDIT, ERASE}.isdisjoint(request[PRINCIPAL].scopes)
    session = await services.session_queries.find_recorded(session_id, request[CALLER], any_owner=of_any_owner)
    receipt = await read_receipt(services.log, session_id)
    if receipt is not None:
        return json_response(services.sign_receipt(receipt))
    if session.erasure is None:
        raise _no_receipt()
    return json_response(ErasureView(session_id, "erasing", await _begun_at(services, session_id)), status=202)


@routes.post("/api/sessions/{session_id}/receipt/forget-ticket")
async def forget_ticket(request: web.Request) -> web.Response:
    services, session_id = request.app[SERVICES], session_id_of(request)
    check_query(request, frozenset())
    caller = request[CALLER]
    await services.session_queries.find_recorded(session_id, caller, any_owner=True)
    origin = Metadata(actor=caller.owner, request_id=caller.request_id)
    deleted = await erase_ticket(services.log, services.holds, session_id, origin)
    receipt = None if deleted is None else await receipt_of(services.log, deleted)
    if receipt is None:
        raise _no_receipt()
    return json_response(services.sign_receipt(receipt))


def _no_receipt() -> Problem:
    return Problem(404, "no-receipt", "No receipt", "the session is not erased")


async def _begun_at(services: Services, session_id: str) -> str:
    for recorded in await services.log.read(session_id, limit=BEGUN_EVENTS_MAX, backwards=True):
        if isinstance(recorded.event, SessionExpired) and recorded.event.erase_reason is not None:
            return timestamp(recorded.recorded_at_us)
    return timestamp(services.clock())


@routes.post("/api/erasures")
async def erase(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    body = await read_body(request, EraseBody, services.settings.server.body_timeout_s)
    check_explanation(body)
    criteria = _criteria(body, services.clock())
    throttle = request.app[THROTTLE].of(request[CALLER].owner)
    work = BulkErasure(services.log, services.queries, services.session_queries, services.supervisor.ask, throttle)
    with request.app[ERASURE_LIMIT].acquire(request[CALLER].owner):
        if body.dry_run:
            lines = work.preview(criteria)
        else:
            command = DeleteSession(REASON, may_wait=True, reason_code=body.reason_code, ticket=body.ticket)
            lines = work.run(criteria, command, erasing_caller(request))
        encoded = _encoded(services, lines)
        if NDJSON in request.headers.get("Accept", ""):
            return await send_document(request, _as_lines(encoded), {"Content-Type": NDJSON, "Vary": "Accept"})
        document = json_document(encode(EraseAnswer([])), "lines", encoded)
        return await send_document(request, document, {"Content-Type": "application/json", "Vary": "Accept"})


async def _encoded(services: Services, lines: AsyncIterator[EraseLine]) -> AsyncIterator[list[bytes]]:
    async for line in lines:
        receipt = line.receipt
        yield [encode(line if receipt is None else EraseLine(receipt=services.sign_receipt(receipt)))]
    services.erasures.notify()


async def _as_lines(encoded: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    async for (line,) in encoded:
        yield line + b"\n"


def _criteria(body: EraseBody, now_us: int) -> BulkCriteria:
    """Raises RequestFault."""
    given = (body.session_ids, body.owner, body.metadata, body.expired_before)
    if sum(one is not None for one in given) != 1:
        raise RequestFault("name one of session_ids, owner, metadata and expired_before")
    if body.ever and body.metadata is None:
        raise RequestFault("goes with metadata", "$.ever")
    ids = []
    for index, text in enumerate(body.session_ids or ()):
        session_id = canonical_id(text)
        if session_id is None:
            raise RequestFault("is not a UUID", f"$.session_ids[{index}]")
        ids.append(session_id)
    return BulkCriteria(
        session_ids=tuple(ids),
        owner=body.owner,
        metadata=body.metadata or {},
        expired_by_us=None if body.expired_before is None else _expired_by_us(body.expired_before, now_us),
        ever=body.ever,
        cursor=body.cursor,
        limit=body.limit,
    )


def _expired_by_us(text: str, now_us: int) -> int:
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise RequestFault("is no time with its zone, such as 2026-01-31T09:30:00Z", "$.expired_before")
    return min((moment - _EPOCH) // timedelta(microseconds=1), now_us) - 1
