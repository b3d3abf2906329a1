"""Export of a conversation, as it is or as of a point in time. It is not an access and appends nothing."""

from collections.abc import AsyncIterator, Callable
from functools import partial

import msgspec
from aiohttp import web

from chatbot.api.access.authorization import CALLER, is_auditor
from chatbot.api.problems import RequestFault
from chatbot.api.request_limits import EXPORT_LIMIT, THROTTLE
from chatbot.api.request_queries import check_query, query_choice
from chatbot.api.requests import session_id_of
from chatbot.api.server.connection_limits import count_held_bytes
from chatbot.api.services import SERVICES
from chatbot.api.streaming.document_stream import json_document, send_document
from chatbot.audit.conversation import Conversation, MessageAsOf
from chatbot.audit.conversation_outline import MESSAGE_BYTES, read_outline, read_texts
from chatbot.audit.conversation_rendering import (
    MarkFinder,
    build_document,
    encode_messages,
    render_markdown_head,
    render_markdown_message,
    select_messages,
)
from chatbot.audit.part_rendering import readable_text
from chatbot.audit.point_in_time import INVALID_POINT_IN_TIME, PointInTime, parse_point_in_time
from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.sessions.domain.rejections import SessionDeleted, SessionNotFound
from projections.folds.session import Session

FORMATS = {"json": ("json", "application/json"), "markdown": ("md", "text/markdown; charset=utf-8")}
PLUS_HINT = " (in an address, write the + of a zone as %2B)"

Pages = AsyncIterator[list[MessageAsOf]]
routes = web.RouteTableDef()


@routes.get("/api/sessions/{session_id}/export")
async def export(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    check_query(request, frozenset({"format", "as_of", "branch"}))
    form = query_choice(request, "format", ("json", "markdown"))
    all_branches = query_choice(request, "branch", ("selected", "all")) == "all"
    if all_branches and form == "markdown":
        raise RequestFault("Markdown shows one branch: ask for all with format=json", "query.branch")
    point_in_time = _point_in_time(request)
    session = await _find_session(request)
    throttle = request.app[THROTTLE].of(request[CALLER].owner)
    with request.app[EXPORT_LIMIT].acquire(request[CALLER].owner):
        outlined = await read_outline(services.log, session.session_id, point_in_time, throttle)
        if outlined is None:  # it did not exist yet
            raise SessionNotFound(session.session_id)
        conversation = outlined.conversation
        count_held_bytes(request, len(conversation.messages) * MESSAGE_BYTES)
        selected = select_messages(conversation, all_branches=all_branches)
        pages = partial(read_texts, services.log, outlined, selected, throttle)
        if form == "json":
            template = msgspec.json.encode(build_document(conversation, all_branches=all_branches, encoded=[]))
            pieces = json_document(template, "messages", _encode_pages(pages(), throttle))
        else:
            pieces = _render_markdown(conversation, len(selected), pages, throttle)
        extension, content_type = FORMATS[form]
        headers = {"Content-Type": content_type, **_disposition_headers(conversation, extension)}
        return await send_document(request, pieces, headers)


async def _find_session(request: web.Request) -> Session:
    """The session, if it is not deleted; for an auditor's key one of any owner, and also an expired one, as in trails
    and reports. Raises SessionNotFound.
    """
    queries, session_id, caller = request.app[SERVICES].session_queries, session_id_of(request), request[CALLER]
    if caller.any_owner or not is_auditor(request):  # a service without keys has no auditors
        return await queries.peek(session_id, caller)
    session = await queries.find_recorded(session_id, caller, any_owner=True)
    if session.is_deleted:
        raise SessionDeleted(session_id)
    return session


async def _encode_pages(pages: Pages, throttle: DutyCycleThrottle) -> AsyncIterator[list[msgspec.Raw]]:
    async for page in pages:
        with throttle.measure():
            encoded = encode_messages(page)
        yield encoded


async def _render_markdown(
    conversation: Conversation, messages: int, pages: Callable[[], Pages], throttle: DutyCycleThrottle
) -> AsyncIterator[bytes]:
    """Reads the texts twice: the marker of headings depends on all of them."""
    mark_finder, prompt = MarkFinder(), conversation.system_prompt or ""
    mark_finder.add(prompt)
    async for page in pages():
        with throttle.measure():
            for one in page:
                mark_finder.add(readable_text(one.content, one.parts))
    mark = mark_finder.mark
    while not mark_finder.is_unambiguous and (mark in prompt or await _any_contains(pages(), mark)):
        mark = mark_finder.next()
    lead = render_markdown_head(conversation, messages, mark)
    async for page in pages():
        with throttle.measure():
            piece = "".join((lead, *(render_markdown_message(one, mark) for one in page))).encode()
        yield piece
        lead = ""
    if lead:
        yield lead.encode()


async def _any_contains(pages: Pages, mark: str) -> bool:
    async for page in pages:
        if any(mark in readable_text(one.content, one.parts) for one in page):
            return True
    return False


def _point_in_time(request: web.Request) -> PointInTime:
    text = request.query.get("as_of")
    if text is None:
        return PointInTime()
    try:
        return parse_point_in_time(text)
    except ValueError as error:
        reason = str(error)
        hint = PLUS_HINT if reason == INVALID_POINT_IN_TIME else ""
        raise RequestFault(reason + hint, "query.as_of") from error


def _disposition_headers(conversation: Conversation, extension: str) -> dict[str, str]:
    name = f"conversation-{conversation.session_id}-v{conversation.version}.{extension}"
    return {"Content-Disposition": f'attachment; filename="{name}"'}
