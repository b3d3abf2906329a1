"""Legal holds: add, list, release, and forget what the log says of those that have ended. None of it erases content of
a session, and the scope that erases may not do it.
"""

from typing import Literal

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.erasure.erasure_bodies import (
    ForgottenView,
    HoldBody,
    HoldList,
    ReleaseBody,
    check_explanation,
    hold_view,
)
from chatbot.api.problems import Problem, RequestFault
from chatbot.api.request_queries import check_query
from chatbot.api.requests import canonical_id, read_body
from chatbot.api.responses import json_response
from chatbot.api.services import SERVICES
from chatbot.holds.hold_registry import HoldNotFound, TooManyHolds
from chatbot.runtime.clock import timestamp
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.rejections import SessionNotFound
from events.catalogue import HoldAdded, HoldReleased
from events.record import Metadata
from projections.folds.blind_index import normalize_nfc
from projections.folds.session import Session

routes = web.RouteTableDef()


@routes.get("/api/holds")
async def list_holds(request: web.Request) -> web.Response:
    check_query(request, frozenset())
    state = await request.app[SERVICES].holds.read()
    return json_response(HoldList([hold_view(hold) for hold in state.holds.values()], state.released))


@routes.post("/api/holds")
async def add(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, HoldBody, services.settings.server.body_timeout_s)
    check_explanation(body)
    if sum(one is not None for one in (body.session_id, body.owner, body.metadata)) != 1:
        raise RequestFault("name one of session_id, owner and metadata")
    session_id = None if body.session_id is None else canonical_id(body.session_id)
    if body.session_id is not None and session_id is None:
        raise RequestFault("is not a UUID", "$.session_id")
    if session_id is not None and not await services.log.read(session_id, limit=1):
        raise SessionNotFound(session_id)
    entries = None
    if body.metadata is not None:
        entries = {normalize_nfc(name): normalize_nfc(value) for name, value in body.metadata.items()}
    added = HoldAdded(services.new_id(), body.reason, body.ticket, session_id, body.owner, entries)
    try:
        hold = await services.holds.add(added, _origin(request))
    except TooManyHolds as error:
        raise Problem(409, "too-many-holds", "Too many holds", str(error)) from error
    services.logger.info("hold.added", hold_id=hold.hold_id)
    # After the hold: what is erased by now was erased before it.
    status = None if session_id is None else await _status_of(request, session_id)
    return json_response(hold_view(hold, status), status=201)


@routes.post("/api/holds/{hold_id}/release")
async def release(request: web.Request) -> web.Response:
    services, hold_id = request.app[SERVICES], request.match_info["hold_id"]
    body = await read_body(request, ReleaseBody, services.settings.server.body_timeout_s)
    check_explanation(body)
    try:
        hold = await services.holds.release(HoldReleased(hold_id, body.reason, body.ticket), _origin(request))
    except HoldNotFound:
        raise Problem(404, "hold-not-found", "Hold not found", "no hold of this id is in force") from None
    services.logger.info("hold.released", hold_id=hold_id)
    services.erasures.notify()
    services.expiry.notify(0)
    return json_response(hold_view(hold))


@routes.post("/api/holds/forget")
async def forget(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    check_query(request, frozenset())
    released = (await services.holds.read()).released
    recorded = await services.holds.forget(_origin(request))
    if recorded is None:
        return json_response(ForgottenView(0))
    services.logger.info("hold.forgotten", holds=released)
    (row,) = await services.log.rows(after=recorded.position - 1, limit=1)
    at = timestamp(recorded.recorded_at_us)
    return json_response(ForgottenView(released, at, recorded.position, row.digest.hex()))


async def _status_of(request: web.Request, session_id: str) -> Literal["active", "expired", "erasing", "deleted"]:
    """The session's status after everything that was recorded before this call."""
    anyone = Caller(any_owner=True)
    session = await request.app[SERVICES].session_queries.find_recorded(session_id, anyone, any_owner=True)
    return status_of(session)


def status_of(session: Session) -> Literal["active", "expired", "erasing", "deleted"]:
    if session.status == "deleted":
        return "deleted"
    if session.erasure is not None:
        return "erasing"
    return "active" if session.status == "active" else "expired"


def _origin(request: web.Request) -> Metadata:
    caller = request[CALLER]
    return Metadata(actor=caller.owner, request_id=caller.request_id)
