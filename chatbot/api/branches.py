"""Branches: select the one to go on with, or take its history into a new session."""

from aiohttp import web

from chatbot.api.answer import etag, json_answer, session_id_of
from chatbot.api.bodies import BranchBody, ForkBody, read_body
from chatbot.api.conditions import id_for, if_match, once_of
from chatbot.api.middleware import ASKER
from chatbot.api.services import SERVICES
from chatbot.api.sessions import new_session
from chatbot.api.views import BranchView
from chatbot.sessions.commands import Fork, SelectBranch
from chatbot.sessions.errors import Draining

routes = web.RouteTableDef()


@routes.post("/api/sessions/{session_id}/branch")
async def branch(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, BranchBody, services.settings.server.body_timeout_s)
    command = SelectBranch(body.message_id, once=once_of(request, "select_branch", body))
    answer = await services.supervisor.ask(
        session_id_of(request), command, request[ASKER], if_versions=if_match(request)
    )
    session = answer.state.session
    selected = BranchView(session.session_id, session.head or body.message_id, session.version)
    return json_answer(selected, headers=etag(session.version))


@routes.post("/api/sessions/{session_id}/fork")
async def fork(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, ForkBody, services.settings.server.body_timeout_s, optional=True)
    if services.supervisor.draining:
        raise Draining("the service is shutting down")
    origin, asker = session_id_of(request), request[ASKER]
    once = once_of(request, "fork_session", body)
    command = Fork(
        session_id=id_for(once, services.new_id(), "fork_session", asker.owner, origin),
        message_id=body.message_id,
        messages_max=services.settings.sessions.fork_messages_max,
        once=once,
    )
    answer = await services.supervisor.ask(origin, command, asker, if_versions=if_match(request))
    return new_session(request, answer.state)
