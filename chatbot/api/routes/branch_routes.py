"""Branches: select one, or fork its history into a new session."""

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.middleware import require_accepting
from chatbot.api.request_bodies import BranchBody, ForkBody
from chatbot.api.requests import if_match, read_body, read_idempotency_key, session_id_for_key, session_id_of
from chatbot.api.response_bodies import BranchView
from chatbot.api.responses import created_response, etag, json_response
from chatbot.api.services import SERVICES
from chatbot.sessions.domain.commands import Fork, SelectBranch

routes = web.RouteTableDef()


@routes.post("/api/sessions/{session_id}/branch")
async def branch(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, BranchBody, services.settings.server.body_timeout_s)
    command = SelectBranch(body.message_id, idempotency_key=read_idempotency_key(request, "select_branch", body))
    answer = await services.supervisor.ask(
        session_id_of(request), command, request[CALLER], if_versions=if_match(request)
    )
    session = answer.state.session
    selected = BranchView(session.session_id, session.head or body.message_id, session.version)
    return json_response(selected, headers=etag(session.version))


@routes.post("/api/sessions/{session_id}/fork")
async def fork(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, ForkBody, services.settings.server.body_timeout_s, optional=True)
    require_accepting(request)
    origin, caller = session_id_of(request), request[CALLER]
    idempotency_key = read_idempotency_key(request, "fork_session", body)
    command = Fork(
        session_id=session_id_for_key(idempotency_key, services.new_id(), "fork_session", caller.owner, origin),
        message_id=body.message_id,
        messages_max=services.settings.sessions.fork_messages_max,
        idempotency_key=idempotency_key,
    )
    answer = await services.supervisor.ask(origin, command, caller, if_versions=if_match(request))
    return created_response(request, answer.state)
