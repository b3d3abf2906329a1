"""Tickets: permissions to read a feed or a file for a short time, without a header."""

from aiohttp import web

from chatbot.api.access.authorization import PRINCIPAL
from chatbot.api.access.tickets import Ticket, sign_ticket
from chatbot.api.problems import RequestFault
from chatbot.api.request_bodies import TicketBody
from chatbot.api.requests import canonical_id, read_body
from chatbot.api.response_bodies import TicketView
from chatbot.api.responses import json_response
from chatbot.api.services import SERVICES
from chatbot.runtime.clock import timestamp

routes = web.RouteTableDef()


@routes.post("/api/tickets")
async def issue(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    settings, principal = services.settings, request[PRINCIPAL]
    body = await read_body(request, TicketBody, settings.server.body_timeout_s, optional=True)
    session_id = None if body.session_id is None else canonical_id(body.session_id)
    if body.session_id is not None and session_id is None:
        raise RequestFault("is not a UUID", "$.session_id")
    if principal.name is None:
        return json_response(TicketView(None, None))  # without keys everything can be read as it is
    ticket = Ticket(principal.secret_sha256, session_id, services.clock() + settings.auth.ticket_seconds * 1_000_000)
    signed = sign_ticket(ticket, services.keys.ticket_bucket(principal.secret_sha256))
    return json_response(TicketView(signed, timestamp(ticket.expires_at_us)))
