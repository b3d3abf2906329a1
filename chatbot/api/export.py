"""A conversation to take away, as it stands or as it stood. Reading it so is no access and appends nothing."""

from collections.abc import AsyncIterator, Callable
from functools import partial

import msgspec
from aiohttp import web

from chatbot.api.answer import session_id_of
from chatbot.api.audit import LEISURE
from chatbot.api.bodies import BodyFault, check_query
from chatbot.api.connections import BoundedProtocol
from chatbot.api.document_stream import json_document, send_document
from chatbot.api.middleware import ASKER
from chatbot.api.open_streams import OpenStreams
from chatbot.api.services import SERVICES
from chatbot.audit.conversation import Conversation, Spoken
from chatbot.audit.moment import NO_MOMENT, Moment, parse_moment
from chatbot.audit.outline import MESSAGE_BYTES, outline, told
from chatbot.audit.rendering import Marking, as_json, encode_messages, markdown_head, markdown_section, said_in
from chatbot.sessions.errors import SessionNotFound
from chatbot.sessions.leisure import Leisure

EXPORTS_MAX = 64  # at once: each holds what is known of every message, without its text
EXPORTS: web.AppKey[OpenStreams] = web.AppKey("exports", OpenStreams)
ENDINGS = {"json": ("json", "application/json"), "markdown": ("md", "text/markdown; charset=utf-8")}
PLUS = " (in an address, write the + of a zone as %2B)"

Pages = AsyncIterator[list[Spoken]]
routes = web.RouteTableDef()


@routes.get("/api/sessions/{session_id}/export")
async def export(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    check_query(request, frozenset({"format", "as_of", "branch"}))
    form = _choice(request, "format", ("json", "markdown"))
    all_branches = _choice(request, "branch", ("selected", "all")) == "all"
    if all_branches and form == "markdown":
        raise BodyFault("Markdown shows one branch: ask for all with format=json", "query.branch")
    moment = _moment(request)
    session = await services.reader.at_a_glance(session_id_of(request), request[ASKER])
    leisure = request.app[LEISURE]
    with request.app[EXPORTS].another():
        outlined = await outline(services.log, session.session_id, moment, leisure)
        if outlined is None:  # it did not exist yet
            raise SessionNotFound(session.session_id)
        conversation = outlined.conversation
        if isinstance(request.protocol, BoundedProtocol):
            request.protocol.hold(len(conversation.messages) * MESSAGE_BYTES)
        said = said_in(conversation, all_branches=all_branches)
        pages = partial(told, services.log, outlined, said, leisure)
        if form == "json":
            whole = msgspec.json.encode(as_json(conversation, all_branches=all_branches, encoded=[]))
            pieces = json_document(whole, "messages", _encoded(pages(), leisure))
        else:
            pieces = _markdown(conversation, len(said), pages, leisure)
        ending, content_type = ENDINGS[form]
        headers = {"Content-Type": content_type, **_file(conversation, ending)}
        return await send_document(request, pieces, headers)


async def _encoded(pages: Pages, leisure: Leisure) -> AsyncIterator[list[msgspec.Raw]]:
    async for page in pages:
        with leisure.work():
            encoded = encode_messages(page)
        yield encoded


async def _markdown(
    conversation: Conversation, messages: int, pages: Callable[[], Pages], leisure: Leisure
) -> AsyncIterator[bytes]:
    """The texts are read twice: what marks the headings depends on them all."""
    marking, prompt = Marking(), conversation.system_prompt or ""
    marking.add(prompt)
    async for page in pages():
        with leisure.work():
            for one in page:
                marking.add(one.content)
    mark = marking.mark
    while not marking.is_sure and (mark in prompt or await _contain(pages(), mark)):
        mark = marking.next()
    lead = markdown_head(conversation, messages, mark)
    async for page in pages():
        with leisure.work():
            piece = "".join((lead, *(markdown_section(one, mark) for one in page))).encode()
        yield piece
        lead = ""
    if lead:
        yield lead.encode()


async def _contain(pages: Pages, mark: str) -> bool:
    async for page in pages:
        if any(mark in one.content for one in page):
            return True
    return False


def _moment(request: web.Request) -> Moment:
    text = request.query.get("as_of")
    if text is None:
        return Moment()
    try:
        return parse_moment(text)
    except ValueError as error:
        says = str(error)
        raise BodyFault(says + PLUS if says == NO_MOMENT else says, "query.as_of") from error


def _choice(request: web.Request, name: str, allowed: tuple[str, str]) -> str:
    """One of two words; the first where none is given. Raises BodyFault."""
    given = request.query.get(name, allowed[0])
    if given not in allowed:
        raise BodyFault(f"must be {' or '.join(allowed)}", f"query.{name}")
    return given


def _file(conversation: Conversation, ending: str) -> dict[str, str]:
    name = f"conversation-{conversation.session_id}-v{conversation.version}.{ending}"
    return {"Content-Disposition": f'attachment; filename="{name}"'}
