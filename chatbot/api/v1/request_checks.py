"""What requests under /v1 have in common: the model that they name, the end user, and the headers of answers."""

from typing import Protocol

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.access.view_records import VIEWS, ViewKind
from chatbot.api.problems import Problem
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES, Services
from chatbot.api.v1.completion_views import MICROSECONDS
from chatbot.api.v1.end_users import end_user_of
from chatbot.llm.model_names import is_offered
from chatbot.sessions.domain.commands import USER_ID, Caller
from chatbot.sessions.domain.rejections import SessionNotFound
from projections.folds.session import Session


def check_model(services: Services, name: str) -> None:
    """Raises Problem if the server's models are known, and this is none of them."""
    provider = services.provider
    if provider.lists_models and not is_offered(name, provider.models):
        why = f"the model {name} does not exist; GET /v1/models lists the models"
        raise Problem(404, "model-not-found", "Model not found", why, errors=[{"path": "$.model", "detail": why}])


class NamesUser(Protocol):
    """A body that may name the end user: `user` counts before `safety_identifier`, which is its newer name."""

    @property
    def user(self) -> str | None: ...

    @property
    def safety_identifier(self) -> str | None: ...


def end_user_of_request(request: web.Request, body: NamesUser | None = None) -> str | None:
    """The end user whom a header names, or else the `body`, as far as the caller is believed. Raises RequestFault."""
    services = request.app[SERVICES]
    body_users = {} if body is None else {"user": body.user, "safety_identifier": body.safety_identifier}
    settings = services.settings
    is_trusted = request[CALLER].owner in settings.auth.front_ends
    now_s = services.clock() / MICROSECONDS
    return end_user_of(request.headers, body_users, settings.v1.user_jwt_secret, now_s, is_trusted=is_trusted)


async def check_end_user(request: web.Request, session_id: str, caller: Caller, body: NamesUser | None = None) -> None:
    """A session of another end user of the same owner than whom the request names counts as one that does not exist;
    one of no end user is free. This read is no access. Raises RequestFault, SessionNotFound.
    """
    end_user = end_user_of_request(request, body)
    if end_user is None:
        return
    reader = request.app[SERVICES].session_queries
    session = await reader.find_recorded(session_id, caller)
    described = await reader.with_metadata([session])
    if described and described[0].metadata.get(USER_ID, end_user) != end_user:
        raise SessionNotFound(session_id)


async def find_session(request: web.Request, session_id: str) -> Session:
    """A live session that the caller, and the end user whom it names in a header, may see. Reading it counts as an
    access. Raises RequestFault, SessionNotFound.
    """
    caller = request[CALLER]
    await check_end_user(request, session_id, caller)
    return await request.app[SERVICES].session_queries.session(session_id, caller)


async def record_named_read(request: web.Request, session_id: str, what: ViewKind) -> None:
    """Record that a request other than a GET reads this session, if reads are recorded. Raises as
    ViewRecorder.record.
    """
    if request.app[SERVICES].settings.auth.record_reads:
        await request.app[VIEWS].record_named(session_id, what, request[CALLER])


def reply_headers(request: web.Request, session_id: str, version: int, *, ignores_tools: bool) -> dict[str, str]:
    """The session, the feed in which our own clients can follow the reply after `version`, and what the model did not
    get.
    """
    prefix = prefix_of(request, request.app[SERVICES].settings.server)
    feed = f"{prefix}/api/sessions/{session_id}/stream?after={version}"
    ignored = {"X-Ignored-Fields": "tools"} if ignores_tools else {}
    return {"X-Session-Id": session_id, "Content-Location": feed, **ignored}
