"""What a ticket opens: reading feeds and files, nothing else."""

from aiohttp import web

from chatbot.api.access.tickets import verify_ticket
from chatbot.api.problems import Problem
from chatbot.api.requests import canonical_id
from chatbot.keys.key_registry import KeyRegistry
from chatbot.keys.principal import Principal

TICKET = "ticket"  # the query parameter
_CHANGES, _FEED, _FILE = "/api/sessions/changes", "/api/sessions/{session_id}/stream", "/api/media/{sha256}"
TICKET_PATHS = frozenset({_CHANGES, _FEED, _FILE})


def ticket_principal(request: web.Request, keys: KeyRegistry, now_us: int) -> Principal | None:
    """The key on whose behalf a request with a ticket is made; None: the request has no ticket that counts here.

    Raises Problem 401 for a ticket that has expired or is none, 403 for one of another session.
    """
    text, resource = request.query.get(TICKET), request.match_info.route.resource
    path = resource.canonical if resource is not None else ""
    if text is None or request.method not in ("GET", "HEAD") or path not in TICKET_PATHS:
        return None
    ticket = verify_ticket(text, keys.ticket_keys)
    if ticket is None:
        raise Problem(401, "unauthorized", "Unauthorized", "the ticket is not one that this service gave out")
    if now_us >= ticket.expires_at_us:
        why = "the ticket has expired; POST /api/tickets gives another to the same key"
        raise Problem(401, "ticket-expired", "Ticket expired", why)
    if ticket.session_id is not None and ticket.session_id != _session_of(request, path):
        raise Problem(403, "ticket-scope", "Ticket of another session", "the ticket is for one session, not for this")
    return keys.find_by_hash(ticket.secret_sha256)


def _session_of(request: web.Request, path: str) -> str | None:
    """The session whose feed or file is read."""
    named = {_FEED: request.match_info.get("session_id"), _FILE: request.query.get("session_id")}.get(path)
    return None if named is None else canonical_id(named)
