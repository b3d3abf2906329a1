"""Lists of sessions, and the stream of what changes in them."""

import base64
import binascii
import re
import unicodedata
from collections.abc import Mapping
from typing import Literal

from aiohttp import web
from msgspec import Struct

from chatbot.api.access.authorization import CALLER
from chatbot.api.access.ticket_scope import TICKET
from chatbot.api.problems import RequestFault
from chatbot.api.request_limits import (
    DESCRIBED_MAX,
    FILTERS_MAX,
    LIST_MAX,
    LIST_MAX_BYTES,
    TITLE_FILTER_MAX_CHARS,
    TITLES_SCANNED_MAX,
)
from chatbot.api.request_queries import check_query, query_choice, query_int
from chatbot.api.response_bodies import SessionList, SessionView
from chatbot.api.responses import encode, json_response, session_view
from chatbot.api.services import SERVICES, Services
from chatbot.api.streaming.change_frames import POSITION_PATTERN
from chatbot.api.streaming.changes_writer import ChangesScope, ChangesWriter
from chatbot.api.streaming.response_stream import STREAMS, ask_to_reconnect, stream_response
from chatbot.runtime.throttle import batched
from chatbot.sessions.domain.rejections import Rejection
from chatbot.sessions.session_queries import SessionWithMetadata
from events.errors import LogError
from events.schema.naming import CONVERSATION, STATELESS, TASK
from projections.errors import ProjectionError
from projections.folds.blind_index import metadata_matches
from projections.folds.session import Session
from projections.port import ListOrder, SessionListQuery, SessionPage

STATUSES: tuple[Literal["active", "expired"], ...] = ("active", "expired")
ORDERS: tuple[ListOrder, ...] = ("accessed", "created")
KINDS: Mapping[str, str] = {"conversation": CONVERSATION, "stateless": STATELESS, "task": TASK}
PARAMETERS = frozenset({"limit", "cursor", "status", "order", "kind", "pinned", "title", "preview"})
routes = web.RouteTableDef()


class ListOptions(Struct, frozen=True):
    """What of a page's sessions is listed, and how. `title`: normalized; empty: all titles."""

    limit: int
    filters: dict[str, str]
    title: str
    is_expired: bool
    has_previews: bool


@routes.get("/api/sessions")
async def list_sessions(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    check_query(request, PARAMETERS, prefix="metadata.")
    status = query_choice(request, "status", STATUSES)
    order = query_choice(request, "order", ORDERS)
    options = ListOptions(
        limit=query_int(request, "limit", 100, 1, LIST_MAX),
        filters=_filters(request),
        title=_title(request),
        is_expired=status == "expired",
        has_previews=query_choice(request, "preview", ("false", "true")) == "true",
    )
    kind = KINDS[query_choice(request, "kind", tuple(KINDS))]
    pinned = query_choice(request, "pinned", ("any", "true", "false"))
    await services.session_queries.catch_up()
    scope = _scope(request)
    page = await services.queries.list_sessions(
        SessionListQuery(
            owner=scope.owner,
            any_owner=scope.any_owner,
            status=status,
            kind=kind,
            metadata=options.filters,
            after=_read_cursor(request.query.get("cursor"), order),
            order=order,
            now_us=services.session_queries.now_us(),
            limit=TITLES_SCANNED_MAX if options.title else options.limit,
            pinned=None if pinned == "any" else pinned == "true",
        )
    )
    views, after = await _describe_page(services, page, options)
    return json_response(SessionList(views, str(page.position), _write_cursor(after, order) if after else None))


@routes.get("/api/sessions/changes", allow_head=False)
async def follow_changes(request: web.Request) -> web.StreamResponse:
    services, streams = request.app[SERVICES], request.app[STREAMS]
    check_query(request, frozenset({"after", TICKET}))
    after, scope = _read_position(request), _scope(request)
    try:
        stream_slot = streams.limit.acquire(request[CALLER].owner)
    except Rejection as error:
        return ask_to_reconnect(request, error)
    with stream_slot, services.feeds.open_list(scope.channel_key) as channel:
        writer = ChangesWriter(services, scope, channel, session_view)
        try:
            await writer.begin(after)
        except (LogError, ProjectionError) as error:
            return ask_to_reconnect(request, error)
        return await stream_response(request, writer.write)


def _scope(request: web.Request) -> ChangesScope:
    """Without keys all sessions are everybody's."""
    return ChangesScope(request[CALLER].owner, any_owner=request[CALLER].any_owner)


async def _describe_page(
    services: Services, page: SessionPage, options: ListOptions
) -> tuple[list[SessionView], tuple[int, int] | None]:
    """The views of a page's sessions, up to a little more than LIST_MAX_BYTES, and where the next page begins."""
    views: list[SessionView] = []
    size = 0
    for batch in batched(page.sessions, DESCRIBED_MAX):
        found = [one for one in await services.session_queries.with_metadata(batch) if _is_wanted(one, options)]
        if room := options.limit - len(views):
            found = found[:room]
        if options.has_previews and found:
            found = await services.session_queries.with_previews(found)
        views += (session_view(one, is_expired=options.is_expired) for one in found)
        size += sum(len(encode(view)) for view in views[-len(found) :]) if found else 0
        if len(views) >= options.limit and found:
            return views, _after(found[-1].session, page)
        if size >= LIST_MAX_BYTES:
            return views, _after(batch[-1], page)
    return views, page.after


def _is_wanted(described: SessionWithMetadata, options: ListOptions) -> bool:
    if described.session.is_deleted or not metadata_matches(described.metadata, options.filters):
        return False
    return not options.title or options.title in normalize_title(described.title or "")


def _after(last: Session, page: SessionPage) -> tuple[int, int] | None:
    """The cursor after a session of the page; None if there are no more."""
    return page.after if last is page.sessions[-1] else (last.accessed_at_us, last.no)


def normalize_title(text: str) -> str:
    """For comparison: without case, and decomposed, so that "각" is found by "가" while it is typed, "é" by "e"."""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())


def _title(request: web.Request) -> str:
    title = request.query.get("title", "")
    if len(title) > TITLE_FILTER_MAX_CHARS:
        raise RequestFault(f"has more than {TITLE_FILTER_MAX_CHARS} characters", "query.title")
    return normalize_title(title.strip())


def _read_position(request: web.Request) -> int | None:
    """The position in Last-Event-ID, else in ?after; None without either. Raises RequestFault."""
    path, text = "header.Last-Event-ID", request.headers.get("Last-Event-ID", "")
    if not text:
        path, text = "query.after", request.query.get("after", "")
        if not text:
            return None
    if not re.fullmatch(POSITION_PATTERN, text):
        raise RequestFault("must be the `cursor` of a list of sessions, or the `id` of a frame", path)
    return int(text)


def _filters(request: web.Request) -> dict[str, str]:
    filters = {
        name.removeprefix("metadata."): value for name, value in request.query.items() if name.startswith("metadata.")
    }
    if len(filters) > FILTERS_MAX:
        raise RequestFault(f"at most {FILTERS_MAX} metadata filters are allowed", "query")
    return filters


def _write_cursor(after: tuple[int, int], order: ListOrder) -> str:
    """Opaque to clients, so that its content may change. It names its order: another one would skip sessions."""
    accessed_at_us, no = after
    position = f"{accessed_at_us}:{no}" if order == "accessed" else f"created:{no}"
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _read_cursor(text: str | None, order: ListOrder) -> tuple[int, int] | None:
    """(accessed_at_us, no) of the last session seen; accessed_at_us is 0 if ordered by creation.

    Raises RequestFault.
    """
    if text is None:
        return None
    try:
        plain = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeError):
        plain = ""
    found = re.fullmatch(r"(created|[0-9]{1,18}):([0-9]{1,18})", plain)
    if not found:
        raise RequestFault("is not a cursor that this service gave out", "query.cursor")
    if (found[1] == "created") != (order == "created"):
        raise RequestFault("is a cursor of another order: ask with the order of the page before", "query.cursor")
    return 0 if order == "created" else int(found[1]), int(found[2])
