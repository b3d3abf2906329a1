"""Authorization: which scopes a request needs, and whether its caller has them."""

from aiohttp import web
from msgspec.structs import replace

from chatbot.api.problems import Problem
from chatbot.keys.principal import Principal
from chatbot.keys.scopes import ADMIN, AUDIT, CHAT, ERASE, HOLD, METRICS
from chatbot.sessions.domain.commands import Caller

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
CALLER: web.RequestKey[Caller] = web.RequestKey("asker", Caller)

# By method and route: one of these scopes is needed. A handler may ask for more, by what the request is about.
ROUTE_SCOPES: dict[tuple[str, str], frozenset[str]] = {
    ("GET", "/metrics"): frozenset({METRICS}),
    ("GET", "/api/events"): frozenset({AUDIT}),
    ("GET", "/api/audit/head"): frozenset({AUDIT}),
    ("GET", "/api/audit/verify"): frozenset({AUDIT}),
    ("GET", "/api/audit/report"): frozenset({AUDIT}),
    ("GET", "/api/sessions/{session_id}/events"): frozenset({CHAT, AUDIT}),
    ("GET", "/api/sessions/{session_id}/export"): frozenset({CHAT, AUDIT}),
    ("DELETE", "/api/sessions/{session_id}"): frozenset({CHAT, ERASE}),
    ("DELETE", "/v1/responses/{response_id}"): frozenset({CHAT, ERASE}),
    ("DELETE", "/v1/conversations/{conversation_id}"): frozenset({CHAT, ERASE}),
    ("POST", "/api/sessions/{session_id}/messages/{message_id}/redact"): frozenset({CHAT, ERASE}),
    ("GET", "/api/sessions/{session_id}/receipt"): frozenset({CHAT, ERASE, AUDIT}),
    ("POST", "/api/sessions/{session_id}/receipt/forget-ticket"): frozenset({ERASE}),
    ("POST", "/api/erasures"): frozenset({ERASE}),
    ("GET", "/api/holds"): frozenset({HOLD, AUDIT}),
    ("POST", "/api/holds"): frozenset({HOLD}),
    ("POST", "/api/holds/{hold_id}/release"): frozenset({HOLD}),
    ("POST", "/api/holds/forget"): frozenset({HOLD}),
    ("GET", "/api/keys"): frozenset({ADMIN, AUDIT}),
    ("POST", "/api/keys"): frozenset({ADMIN}),
    ("POST", "/api/keys/{key_name}/rotate"): frozenset({ADMIN}),
    ("DELETE", "/api/keys/{key_name}"): frozenset({ADMIN}),
}
OTHER_ROUTES = frozenset({CHAT})


def require_route_scope(principal: Principal, needed: frozenset[str]) -> None:
    """Raises Problem 403."""
    if principal.scopes.isdisjoint(needed):
        raise _forbidden(principal, " or ".join(sorted(needed)))


def require_scope(request: web.Request, scope: str) -> None:
    """Raises Problem 403, which names the scope."""
    if scope not in request[PRINCIPAL].scopes:
        raise _forbidden(request[PRINCIPAL], scope)


def is_auditor(request: web.Request) -> bool:
    """Whether the caller may read the whole log: its key has the scope audit, or no keys exist."""
    return AUDIT in request[PRINCIPAL].scopes


def require_auditor(request: web.Request) -> None:
    """Raises Problem 403."""
    require_scope(request, AUDIT)


def erasing_caller(request: web.Request) -> Caller:
    """The caller, who may delete and redact sessions of any owner if its key has the scope erase."""
    caller = request[CALLER]
    return replace(caller, any_owner=True) if ERASE in request[PRINCIPAL].scopes else caller


def _forbidden(principal: Principal, needed: str) -> Problem:
    had = ", ".join(sorted(principal.scopes)) or "none"
    return Problem(403, "forbidden", "Forbidden", f"this needs a key with the scope {needed}; this key has {had}")
