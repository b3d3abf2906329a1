"""A conversation to take away, as it stands or as it stood. Reading it so is no access and appends nothing."""

from aiohttp import web

from chatbot.api.answer import json_answer, session_id_of
from chatbot.api.bodies import BodyFault, check_query
from chatbot.api.middleware import ASKER
from chatbot.api.services import SERVICES
from chatbot.audit.conversation import Conversation, load
from chatbot.audit.moment import NO_MOMENT, Moment, parse_moment
from chatbot.audit.rendering import as_json, as_markdown
from chatbot.sessions.errors import SessionNotFound

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
    conversation = await load(services.log, session.session_id, moment)
    if conversation is None:  # it did not exist yet
        raise SessionNotFound(session.session_id)
    if form == "json":
        return json_answer(as_json(conversation, all_branches=all_branches), headers=_file(conversation, "json"))
    headers = {"Content-Type": "text/markdown; charset=utf-8", **_file(conversation, "md")}
    return web.Response(body=as_markdown(conversation).encode(), headers=headers)


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
