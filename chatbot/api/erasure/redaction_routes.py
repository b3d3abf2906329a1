"""Redaction of a message or one of its parts: for the session's owner and for keys with the scope erase."""

from aiohttp import web

from chatbot.api.access.authorization import erasing_caller
from chatbot.api.erasure.erasure_bodies import RedactBody, check_explanation
from chatbot.api.requests import if_match, read_body, session_id_of
from chatbot.api.responses import json_response
from chatbot.api.services import SERVICES
from chatbot.audit.receipt import receipt_of
from chatbot.sessions.domain.commands import RedactMessage
from chatbot.sessions.message_redaction import MessageRedaction

routes = web.RouteTableDef()


@routes.post("/api/sessions/{session_id}/messages/{message_id}/redact")
async def redact(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, RedactBody, services.settings.server.body_timeout_s)
    check_explanation(body)
    command = RedactMessage(request.match_info["message_id"], body.reason_code, body.part, body.ticket)
    log, queries, reader = services.log, services.queries, services.session_queries
    work = MessageRedaction(log, queries, reader, services.supervisor.ask, services.holds.version)
    recorded = await work.redact(
        session_id_of(request), command, erasing_caller(request), if_versions=if_match(request)
    )
    receipt = await receipt_of(log, recorded[0])
    if receipt is None:
        raise RuntimeError("a redaction has recorded another event")
    return json_response(services.sign_receipt(receipt))
