"""Which report a request asks for, and the sessions that it selects."""

from datetime import UTC, datetime

from aiohttp import web
from msgspec import Struct

from chatbot.api.audit.event_queries import METADATA_PREFIX, SESSION_FILTERS, read_session_filter
from chatbot.api.problems import Problem, RequestFault
from chatbot.api.request_limits import CHECKPOINT_MAX_CHARS
from chatbot.api.request_queries import query_choice
from chatbot.api.requests import canonical_id
from chatbot.api.services import Services
from chatbot.audit.report.report_query import SESSIONS_MAX, ReportRequest, retention_of
from chatbot.audit.search.event_filter import SessionFilter
from chatbot.audit.search.session_selection import find_projected, find_sessions
from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.sessions.domain.rejections import SessionNotFound
from events.integrity import signed_checkpoint
from events.integrity.signed_checkpoint import InvalidCheckpoint, LogCheckpoint

REPORT_PARAMETERS = SESSION_FILTERS | {"session_id", "format", "requests", "images", "checkpoint"}
SESSION_IDS_MAX = 100  # named in one request
PROVEN_EVENTS_MAX = 2_000  # of one session over HTTP, where many reports may be made at once


class Selection(Struct, frozen=True):
    """Exactly one is set."""

    session_ids: tuple[str, ...]
    sessions: SessionFilter


def read_selection(request: web.Request) -> Selection:
    """Raises RequestFault unless exactly one of session_id, owner and metadata selects the sessions."""
    sessions = read_session_filter(request)
    named = request.query.get("session_id")
    ways = (named is not None, sessions.owner is not None, bool(sessions.metadata))
    if sum(ways) != 1:
        raise RequestFault(f"one of session_id, owner and {METADATA_PREFIX}<key> selects the sessions", "query")
    if named is None:
        return Selection((), sessions)
    ids = [canonical_id(one) for one in named.split(",")]
    if len(ids) > SESSION_IDS_MAX:
        raise RequestFault(f"names more than {SESSION_IDS_MAX} sessions", "query.session_id")
    known = tuple(dict.fromkeys(one for one in ids if one is not None))
    if None in ids:
        raise RequestFault("has an id that is no UUID", "query.session_id")
    return Selection(known, sessions)


async def find_reported(services: Services, selection: Selection, throttle: DutyCycleThrottle) -> list[str]:
    """The ids of the selected sessions, the oldest first. Raises Problem 404, SessionNotFound, LogUnavailable,
    ProjectionError.
    """
    await services.runner.wait_for((await services.log.latest()).position)
    if selection.session_ids:
        found = [one for one in selection.session_ids if await services.queries.session(one) is not None]
        if len(found) < len(selection.session_ids):
            raise SessionNotFound(next(one for one in selection.session_ids if one not in found))
    elif selection.sessions.ever:
        found = await find_sessions(services.log, selection.sessions, throttle=throttle)
    else:
        log, queries, wanted = services.log, services.queries, selection.sessions
        found = [one.session_id for one in await find_projected(log, services.runner, queries, wanted, SESSIONS_MAX)]
    if not found:
        raise Problem(404, "session-not-found", "Session not found", "no session is selected")
    if len(found) > SESSIONS_MAX:
        raise RequestFault(f"selects more than {SESSIONS_MAX} sessions", "query")
    return found


def report_request(request: web.Request, services: Services, selection: Selection, found: list[str]) -> ReportRequest:
    """Raises RequestFault."""
    sessions = selection.sessions
    selected_by = (
        {"sessions": list(selection.session_ids)}
        if selection.session_ids
        else {"owner": sessions.owner}
        if sessions.owner is not None
        else {"metadata": dict(sessions.metadata), "ever": sessions.ever}
    )
    return ReportRequest(
        session_ids=found,
        selected_by=selected_by,
        created_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        program=f"chatbot {services.version}",
        retention=retention_of(services.settings.sessions),
        requests=_flag(request, "requests"),
        images=_flag(request, "images"),
        checkpoint=_checkpoint(request),
        proven_events_max=PROVEN_EVENTS_MAX,
    )


def _flag(request: web.Request, name: str) -> bool:
    return query_choice(request, name, ("false", "true")) == "true"


def _checkpoint(request: web.Request) -> tuple[str, LogCheckpoint] | None:
    """The checkpoint's text and what it states; its signature is for those who check the proof."""
    note = request.query.get("checkpoint")
    if note is None:
        return None
    if len(note) > CHECKPOINT_MAX_CHARS:
        raise RequestFault(f"has more than {CHECKPOINT_MAX_CHARS} characters", "query.checkpoint")
    try:
        return note, signed_checkpoint.parse(note)
    except InvalidCheckpoint as error:
        raise RequestFault(str(error), "query.checkpoint") from error
