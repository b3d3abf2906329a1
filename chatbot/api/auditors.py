"""Who may audit: read the whole log, every session's trail, and what proves them."""

from aiohttp import web

from chatbot.api.middleware import ASKER
from chatbot.api.problems import Problem
from chatbot.api.services import SERVICES


def is_auditor(request: web.Request) -> bool:
    """Whoever has a key that the settings name; everyone where no keys are configured, as with all else."""
    auth = request.app[SERVICES].settings.auth
    return not auth.keys or request[ASKER].owner in auth.auditors


def require_auditor(request: web.Request) -> None:
    """Raises Problem 403."""
    if not is_auditor(request):
        raise Problem(403, "forbidden", "Forbidden", "only an auditor's key may do this; auth.auditors names them")
