"""Event histories (trails): the events of one session or of the whole log. Reading them is not an access."""

import re
from collections.abc import AsyncIterator, Callable

import msgspec
from aiohttp import web

from chatbot.api.access.authorization import CALLER, is_auditor, require_auditor
from chatbot.api.problems import RequestFault
from chatbot.api.request_limits import AFTER_MAX, LOG_DEFAULT, LOG_MAX, THROTTLE, TRAIL_DEFAULT, TRAIL_MAX
from chatbot.api.request_queries import check_query, query_int
from chatbot.api.requests import session_id_of
from chatbot.api.services import SERVICES, Services
from chatbot.api.streaming.document_stream import send_document
from chatbot.api.streaming.log_feed_writer import LogFeedWriter
from chatbot.api.streaming.response_stream import STREAMS, ask_to_reconnect, stream_response
from chatbot.audit.event_view import encode_row, encode_row_for_client, read_log_rows, read_session_rows
from chatbot.runtime.throttle import DutyCycleThrottle, ThrottledLog
from chatbot.sessions.domain.rejections import Overloaded
from events.record import StoredRow

NDJSON = "application/x-ndjson"
HEADERS = {
    "Cache-Control": "private, no-cache, no-transform",
    "X-Accel-Buffering": "no",  # a buffering proxy would hold the whole answer in memory
    "Vary": "Accept",
}
Pages = AsyncIterator[list[StoredRow]]
Encode = Callable[[StoredRow], bytes]
routes = web.RouteTableDef()


@routes.get("/api/sessions/{session_id}/events", allow_head=False)
async def session_history(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    check_query(request, frozenset({"after", "limit"}))
    after = query_int(request, "after", 0, 0, AFTER_MAX)
    limit = query_int(request, "limit", TRAIL_DEFAULT, 1, TRAIL_MAX)
    session = await services.session_queries.find_recorded(
        session_id_of(request), request[CALLER], any_owner=is_auditor(request)
    )
    if after > session.version:
        raise RequestFault(f"the session ends at version {session.version}", "query.after")
    throttle = request.app[THROTTLE]
    pages = read_session_rows(ThrottledLog(services.log, throttle), session.session_id, after, limit)
    encode = encode_row if is_auditor(request) else encode_row_for_client
    if NDJSON in request.headers.get("Accept", ""):
        return await send_document(request, _encode_lines(pages, throttle, encode), _headers(NDJSON))
    document = _encode_document(session.session_id, session.version, pages, throttle, encode)
    return await send_document(request, document, _headers("application/json"))


@routes.get("/api/events", allow_head=False)
async def log_history(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    require_auditor(request)
    check_query(request, frozenset({"after", "limit"}))
    limit = query_int(request, "limit", LOG_DEFAULT, 1, LOG_MAX)
    after = _position(request, services)
    if "text/event-stream" not in request.headers.get("Accept", ""):
        throttle = request.app[THROTTLE]
        pages = read_log_rows(ThrottledLog(services.log, throttle), after, limit)
        return await send_document(request, _encode_lines(pages, throttle, encode_row), _headers(NDJSON))
    try:
        with request.app[STREAMS].limit.acquire():
            writer = LogFeedWriter(services, after, request.app[THROTTLE])
            return await stream_response(request, writer.write)
    except Overloaded as error:
        return ask_to_reconnect(request, error)


def _position(request: web.Request, services: Services) -> int:
    """The position to continue after: in Last-Event-ID, else in ?after, else 0. Raises RequestFault.

    A position beyond the end of the log is refused: the log has lost events, or is another one.
    """
    path, text = "header.Last-Event-ID", request.headers.get("Last-Event-ID", "")
    if not text:
        path, text = "query.after", request.query.get("after", "0")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise RequestFault("must be the position of an event, or 0", path)
    end = services.log.head().position
    if int(text) > end:
        raise RequestFault(f"the log ends at position {end}", path)
    return int(text)


async def _encode_lines(pages: Pages, throttle: DutyCycleThrottle, encode: Encode) -> AsyncIterator[bytes]:
    async for page in pages:
        with throttle.measure():
            piece = b"".join(encode(row) + b"\n" for row in page)
        yield piece


async def _encode_document(
    session_id: str, version: int, pages: Pages, throttle: DutyCycleThrottle, encode: Encode
) -> AsyncIterator[bytes]:
    """A TrailView, in pieces."""
    lead, last = b'{"session_id":%b,"events":[' % msgspec.json.encode(session_id), version
    async for page in pages:
        with throttle.measure():
            piece = lead + b",".join(map(encode, page))
        yield piece
        lead, last = b",", page[-1].version
    end = b"]}" if last >= version else b'],"next":%d}' % last
    yield end if lead == b"," else lead + end


def _headers(content_type: str) -> dict[str, str]:
    return {"Content-Type": content_type, **HEADERS}
