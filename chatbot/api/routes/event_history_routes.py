"""Event histories (trails): the events of one session or of the whole log. Reading them is not an access."""

import re
from collections.abc import AsyncIterator, Callable

import msgspec
from aiohttp import web
from msgspec import Struct

from chatbot.api.access.authorization import CALLER, is_auditor, require_auditor
from chatbot.api.audit.event_queries import (
    EVENT_FILTERS,
    METADATA_PREFIX,
    SESSION_FILTERS,
    read_event_filter,
    read_session_filter,
)
from chatbot.api.audit_response_bodies import PageEnd
from chatbot.api.problems import RequestFault
from chatbot.api.request_limits import (
    AFTER_MAX,
    LOG_DEFAULT,
    LOG_MAX,
    SCANNED_MAX,
    THROTTLE,
    TRAIL_DEFAULT,
    TRAIL_MAX,
)
from chatbot.api.request_queries import check_query, query_int
from chatbot.api.requests import session_id_of
from chatbot.api.services import SERVICES, Services
from chatbot.api.streaming.document_stream import send_document
from chatbot.api.streaming.log_feed_writer import LogFeedWriter
from chatbot.api.streaming.response_stream import STREAMS, ask_to_reconnect, stream_response
from chatbot.audit.event_view import encode_row, encode_row_for_client, read_log_rows, read_session_rows
from chatbot.audit.search.event_filter import EventFilter, SessionFilter
from chatbot.audit.search.event_search import SearchPage, SearchQuery, read_rows, search_events
from chatbot.audit.search.session_selection import (
    EverySession,
    KnownSessions,
    ProjectedSessions,
    SessionSelector,
    find_projected,
)
from chatbot.runtime.throttle import DutyCycleThrottle, ThrottledLog
from chatbot.sessions.domain.rejections import Overloaded
from events.record import StoredRow

NDJSON = "application/x-ndjson"
KNOWN_SESSIONS_MAX = 1_000  # selected sessions that a request holds in memory; of more, each event's is looked up
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
    check_query(request, frozenset({"after", "limit"}) | EVENT_FILTERS)
    after = query_int(request, "after", 0, 0, AFTER_MAX)
    limit = query_int(request, "limit", TRAIL_DEFAULT, 1, TRAIL_MAX)
    events = read_event_filter(request)
    session = await services.session_queries.find_recorded(
        session_id_of(request), request[CALLER], any_owner=is_auditor(request)
    )
    if after > session.version:
        raise RequestFault(f"the session ends at version {session.version}", "query.after")
    throttle = request.app[THROTTLE].of(request[CALLER].owner)
    scanned_max = limit if events.is_empty else SCANNED_MAX
    trail = TrailReader(ThrottledLog(services.log, throttle), session.session_id, session.version, events)
    pages = trail.pages(after, limit, scanned_max)
    encode = encode_row if is_auditor(request) else encode_row_for_client
    if NDJSON in request.headers.get("Accept", ""):
        lines = _encode_lines(pages, throttle, encode)
        if not events.is_empty:
            lines = _with_end(lines, trail.end)
        return await send_document(request, lines, _headers(NDJSON))
    document = _encode_document(trail, pages, throttle, encode)
    return await send_document(request, document, _headers("application/json"))


@routes.get("/api/events", allow_head=False)
async def log_history(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    require_auditor(request)
    check_query(request, frozenset({"after", "limit"}) | EVENT_FILTERS | SESSION_FILTERS, METADATA_PREFIX)
    limit = query_int(request, "limit", LOG_DEFAULT, 1, LOG_MAX)
    after = await _position(request, services)
    events, sessions = read_event_filter(request), read_session_filter(request)
    throttle = request.app[THROTTLE].of(request[CALLER].owner)
    if "text/event-stream" not in request.headers.get("Accept", ""):
        if events.is_empty and sessions.is_empty:
            pages = read_log_rows(ThrottledLog(services.log, throttle), after, limit)
            return await send_document(request, _encode_lines(pages, throttle, encode_row), _headers(NDJSON))
        page = await _search(services, SearchFilters(events, sessions), after, limit, throttle)
        lines = _encode_lines(read_rows(services.log, page.positions, throttle), throttle, encode_row)
        return await send_document(request, _with_end(lines, lambda: page), _headers(NDJSON))
    if not sessions.is_empty:
        raise RequestFault("a stream is filtered by time, type, key and request_id only", "query")
    try:
        with request.app[STREAMS].limit.acquire(request[CALLER].owner):
            writer = LogFeedWriter(services, after, throttle, events)
            return await stream_response(request, writer.write)
    except Overloaded as error:
        return ask_to_reconnect(request, error)


async def _position(request: web.Request, services: Services) -> int:
    """The position to continue after: in Last-Event-ID, else in ?after, else 0. Raises RequestFault,
    LogUnavailable.

    A position beyond the end of the log is refused: the log has lost events, or is another one.
    """
    path, text = "header.Last-Event-ID", request.headers.get("Last-Event-ID", "")
    if not text:
        path, text = "query.after", request.query.get("after", "0")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise RequestFault("must be the position of an event, or 0", path)
    if int(text) > services.log.head().position:  # as far as this node knows: another one may have sent that event
        end = (await services.log.latest()).position
        if int(text) > end:
            raise RequestFault(f"the log ends at position {end}", path)
    return int(text)


async def _encode_lines(pages: Pages, throttle: DutyCycleThrottle, encode: Encode) -> AsyncIterator[bytes]:
    async for page in pages:
        with throttle.measure():
            piece = b"".join(encode(row) + b"\n" for row in page)
        yield piece


async def _encode_document(
    trail: "TrailReader", pages: Pages, throttle: DutyCycleThrottle, encode: Encode
) -> AsyncIterator[bytes]:
    """A TrailView, in pieces."""
    lead = b'{"session_id":%b,"events":[' % msgspec.json.encode(trail.session_id)
    async for page in pages:
        if not page:
            continue
        with throttle.measure():
            piece = lead + b",".join(map(encode, page))
        yield piece
        lead = b","
    end = trail.end()
    closing = b'],"next":%d}' % end.next if end.more else b"]}"
    yield closing if lead == b"," else lead + closing


async def _with_end(lines: AsyncIterator[bytes], end: Callable[[], SearchPage]) -> AsyncIterator[bytes]:
    """The lines, and a last one that says where to go on."""
    async for piece in lines:
        if piece:
            yield piece
    page = end()
    yield msgspec.json.encode(PageEnd(page.next, page.more)) + b"\n"


class SearchFilters(Struct, frozen=True):
    """What a request asks for."""

    events: EventFilter
    sessions: SessionFilter


async def _search(
    services: Services, filters: SearchFilters, after: int, limit: int, throttle: DutyCycleThrottle
) -> SearchPage:
    """Where few sessions are selected, only the part of the log that has their events is looked at.

    Raises LogUnavailable, ProjectionError.
    """
    head = end = (await services.log.latest()).position
    selector: SessionSelector = EverySession()
    if not filters.sessions.is_empty:
        log, queries, wanted = services.log, services.queries, filters.sessions
        found = await find_projected(log, services.runner, queries, wanted, KNOWN_SESSIONS_MAX)
        selector = ProjectedSessions(log, queries, wanted)
        if len(found) <= KNOWN_SESSIONS_MAX and not filters.sessions.ever:
            selector = KnownSessions(frozenset(one.session_id for one in found))
            after = max(after, min((one.no for one in found), default=head + 1) - 1)
            end = min(head, max((one.position for one in found), default=0))
    query = SearchQuery(events=filters.events, after=after, end=end, limit=limit, scanned_max=SCANNED_MAX)
    page = await search_events(services.log, query, selector, throttle)
    return page if page.more else SearchPage(page.positions, head, more=False)


class TrailReader:
    """Reads the events of a session that match, and knows how far it has read."""

    def __init__(self, log: ThrottledLog, session_id: str, version: int, events: EventFilter) -> None:
        self.session_id = session_id
        self._log = log
        self._version = version
        self._events = events
        self._reached = 0

    async def pages(self, after: int, limit: int, scanned_max: int) -> Pages:
        """Up to `limit` matching rows with version > `after`, of up to `scanned_max` rows."""
        self._reached = after
        async for page in read_session_rows(self._log, self.session_id, after, scanned_max):
            found = [row for row in page if self._events.matches(row)]
            self._reached = page[-1].version
            if len(found) >= limit:
                found = found[:limit]
                self._reached = found[-1].version
                yield found
                return
            limit -= len(found)
            yield found

    def end(self) -> SearchPage:
        """Where to go on, once the pages are read."""
        return SearchPage([], self._reached, self._reached < self._version)


def _headers(content_type: str) -> dict[str, str]:
    return {"Content-Type": content_type, **HEADERS}
