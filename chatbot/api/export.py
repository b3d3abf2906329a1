"""A conversation to take away, as it stands or as it stood. Reading it so is no access and appends nothing."""

import asyncio

import msgspec
from aiohttp import web

from chatbot.api.answer import session_id_of
from chatbot.api.audit import LEISURE
from chatbot.api.bodies import BodyFault, check_query
from chatbot.api.middleware import ASKER
from chatbot.api.services import SERVICES
from chatbot.audit.conversation import Conversation, load
from chatbot.audit.moment import NO_MOMENT, Moment, parse_moment
from chatbot.audit.rendering import as_json, as_markdown, encode_messages, said_in
from chatbot.sessions.errors import SessionNotFound
from chatbot.sessions.leisure import Leisure, batched

PAGE = 100  # messages made JSON at once
ENDINGS = {"json": ("json", "application/json"), "markdown": ("md", "text/markdown; charset=utf-8")}
PLUS = " (in an address, write the + of a zone as %2B)"

routes = web.RouteTableDef()


@routes.get("/api/sessions/{session_id}/export")
async def export(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    check_query(request, frozenset({"format", "as_of", "branch"}))
    form = _choice(request, "format", ("json", "markdown"))
    all_branches = _choice(request, "branch", ("selected", "all")) == "all"
    if all_branches and form == "markdown":
        raise BodyFault("Markdown shows one branch: ask for all with format=json", "query.branch")
    moment = _moment(request)
    session = await services.reader.at_a_glance(session_id_of(request), request[ASKER])
    leisure = request.app[LEISURE]
    conversation = await load(services.log, session.session_id, moment, leisure)
    if conversation is None:  # it did not exist yet
        raise SessionNotFound(session.session_id)
    if form == "json":
        body = await _json(conversation, leisure, all_branches=all_branches)
    else:
        with leisure.work():
            body = (await asyncio.to_thread(as_markdown, conversation)).encode()
    ending, content_type = ENDINGS[form]
    return web.Response(body=body, headers={"Content-Type": content_type, **_file(conversation, ending)})


async def _json(conversation: Conversation, leisure: Leisure, *, all_branches: bool) -> bytes:
    """Nothing bounds the length of a conversation: a page of it at a time."""
    encoded: list[msgspec.Raw] = []
    for page in batched(said_in(conversation, all_branches=all_branches), PAGE):
        await leisure.turn()
        with leisure.work():
            encoded += encode_messages(page)
    return msgspec.json.encode(as_json(conversation, all_branches=all_branches, encoded=encoded))


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
