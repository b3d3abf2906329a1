"""Sessions: create, read, list, change, delete, and their messages."""

from collections.abc import AsyncIterator
from typing import Literal

from aiohttp import web
from msgspec import UNSET
from msgspec.structs import replace

from chatbot.api.access.authorization import CALLER, erasing_caller
from chatbot.api.json_checks import check_metadata
from chatbot.api.middleware import require_accepting
from chatbot.api.request_bodies import CancelBody, ChangeSessionBody, CreateSessionBody, ReadBody
from chatbot.api.request_limits import LIST_MAX
from chatbot.api.request_queries import check_query, query_int
from chatbot.api.requests import (
    check_at_least,
    check_text,
    if_match,
    matches_if_none_match,
    read_body,
    read_explanation,
    read_idempotency_key,
    session_id_for_key,
    session_id_of,
)
from chatbot.api.response_bodies import CancelView, ErasureView, MessageList
from chatbot.api.responses import created_response, encode, etag, json_response, message_view, session_view, state_view
from chatbot.api.server.connection_limits import count_held_bytes
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES, Services
from chatbot.api.session_bodies import check_settings, parameter_changes
from chatbot.api.streaming.document_stream import json_document, send_document
from chatbot.runtime.clock import timestamp
from chatbot.sessions.domain.commands import (
    CancelReply,
    ChangeMetadata,
    CreateSession,
    DeleteSession,
    MarkRead,
    WithdrawMessage,
)
from chatbot.sessions.domain.rejections import SessionDeleted
from chatbot.sessions.domain.state import changed_settings
from chatbot.sessions.session_queries import History
from events.catalogue import ReplySettings
from projections.port import ListOrder

MESSAGE_BYTES = 600  # memory of a message whose text is not read yet, approximately
STATUSES: tuple[Literal["active", "expired"], ...] = ("active", "expired")
ORDERS: tuple[ListOrder, ...] = ("accessed", "created")
routes = web.RouteTableDef()


@routes.post("/api/sessions")
async def create(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    settings = services.settings
    body = await read_body(request, CreateSessionBody, settings.server.body_timeout_s, optional=True)
    metadata = body.metadata or {}
    check_metadata(metadata, settings)
    if body.title is not None:
        check_text(body.title, "$.title", settings.sessions.title_max_chars)
    check_settings(body, settings)
    prompt = settings.chat.system_prompt if body.system_prompt is None else body.system_prompt
    owner, idempotency_key = request[CALLER].owner, read_idempotency_key(request, "create_session", body)
    command = CreateSession(
        owner=owner,
        metadata={key: value for key, value in metadata.items() if value is not None},
        timeout_s=_timeout_s(settings.sessions.timeout_hours if body.timeout_hours is None else body.timeout_hours),
        title=body.title,
        system_prompt=prompt or None,
        idempotency_key=idempotency_key,
        parameters=changed_settings(ReplySettings(), UNSET, parameter_changes(body)).parameters,
    )
    require_accepting(request)
    session_id = session_id_for_key(idempotency_key, services.new_id(), "create_session", owner)
    answer = await services.supervisor.ask(session_id, command, request[CALLER])
    return created_response(request, answer.state)


def _timeout_s(hours: float) -> int:
    """Whole seconds; 0: the session never expires."""
    return max(1, round(hours * 3600)) if hours else 0


@routes.get("/api/sessions/{session_id}")
async def read(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    check_query(request, frozenset({"at_least"}))
    session = await services.session_queries.session(session_id_of(request), request[CALLER])
    check_at_least(request, session.version)
    described = await services.session_queries.with_metadata([session])
    headers = etag(session.version)
    if matches_if_none_match(request, session.version):
        return web.Response(status=304, headers=headers)
    if not described:  # deleted in the meantime
        raise SessionDeleted(session.session_id)
    return json_response(session_view(described[0]), headers=headers)


@routes.patch("/api/sessions/{session_id}")
async def change(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, ChangeSessionBody, services.settings.server.body_timeout_s)
    if isinstance(body.metadata, dict):
        check_metadata(body.metadata, services.settings)
    if isinstance(body.title, str):
        check_text(body.title, "$.title", services.settings.sessions.title_max_chars)
    check_settings(body, services.settings)
    command = ChangeMetadata(
        metadata=body.metadata,
        title=body.title,
        system_prompt=body.system_prompt,
        parameters=parameter_changes(body),
        pinned=body.pinned,
        metadata_max_bytes=services.settings.sessions.metadata_max_bytes,
        metadata_keys_max=services.settings.sessions.metadata_keys_max,
    )
    answer = await services.supervisor.ask(
        session_id_of(request), command, request[CALLER], if_versions=if_match(request)
    )
    return json_response(state_view(answer.state), headers=etag(answer.state.session.version))


@routes.delete("/api/sessions/{session_id}")
async def delete(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    reason_code, ticket = read_explanation(request)
    session_id = session_id_of(request)
    command = DeleteSession(may_wait=True, reason_code=reason_code, ticket=ticket)
    answer = await services.supervisor.ask(session_id, command, erasing_caller(request), if_versions=if_match(request))
    if answer.state.session.status == "deleted":
        return web.Response(status=204)
    services.erasures.notify()
    return json_response(ErasureView(session_id, "erasing", timestamp(services.clock())), status=202)


@routes.post("/api/sessions/{session_id}/read")
async def mark_read(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, ReadBody, services.settings.server.body_timeout_s, optional=True)
    answer = await services.supervisor.ask(session_id_of(request), MarkRead(body.version), request[CALLER])
    return json_response(state_view(answer.state), headers=etag(answer.state.session.version))


@routes.post("/api/sessions/{session_id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    body = await read_body(request, CancelBody, services.settings.server.body_timeout_s, optional=True)
    command = CancelReply(idempotency_key=read_idempotency_key(request, "cancel_reply", body), reply_id=body.reply_id)
    answer = await services.supervisor.ask(
        session_id_of(request), command, request[CALLER], if_versions=if_match(request)
    )
    reply = answer.reply
    if reply is not None and reply.outcome is not None:
        return json_response(CancelView(reply.reply_id, reply.outcome.status), status=202)
    closed = answer.closed_calls
    if closed is not None:
        return json_response(CancelView(closed.reply_id, "complete", list(closed.call_ids)))
    if body.reply_id is None:
        return json_response(CancelView(reply_id=None))
    await services.runner.wait_for(answer.state.session.position)
    ended = await services.queries.message(answer.state.session.no, body.reply_id)
    return json_response(CancelView(body.reply_id, ended.status if ended else None))


@routes.delete("/api/sessions/{session_id}/messages/{message_id}")
async def withdraw_message(request: web.Request) -> web.Response:
    services, message_id = request.app[SERVICES], request.match_info["message_id"]
    answer = await services.supervisor.ask(
        session_id_of(request), WithdrawMessage(message_id), request[CALLER], if_versions=if_match(request)
    )
    return json_response(state_view(answer.state), headers=etag(answer.state.session.version))


@routes.get("/api/sessions/{session_id}/messages")
async def messages(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    check_query(request, frozenset({"limit", "before", "branch", "at_least"}))
    limit = query_int(request, "limit", 100, 1, LIST_MAX)
    before = request.query.get("before")
    session_id = session_id_of(request)
    branch = request.query.get("branch") or None
    history = await services.session_queries.history(session_id, branch, limit, before, request[CALLER])
    session, first = history.session, history.messages
    prefix = prefix_of(request, services.settings.server)
    check_at_least(request, session.version)
    listed = MessageList(
        session_id=session_id,
        messages=[message_view(one, session_id, prefix) for one in first],
        total_count=history.total,
        version=session.version,
        cursor=f"{session.version}:{history.offset}",
        next=first[0].row.message_id if first and first[0].row.depth > 1 else None,
    )
    headers = etag(session.version)
    if not history.remaining:
        return json_response(listed, headers=headers)
    document = json_document(encode(replace(listed, messages=[])), "messages", _messages(services, history, prefix))
    count_held_bytes(request, MESSAGE_BYTES * sum(map(len, history.remaining)))
    del listed, first, history  # or the texts of the first piece stay in memory while the client reads nothing
    return await send_document(request, document, {"Content-Type": "application/json", **headers})


async def _messages(services: Services, history: History, prefix: str) -> AsyncIterator[list[bytes]]:
    """The messages of a long page, in pieces."""
    session_id = history.session.session_id
    yield [encode(message_view(one, session_id, prefix)) for one in history.messages]
    history = replace(history, messages=[])
    async for messages in services.session_queries.remaining_messages(history):
        yield [encode(message_view(one, session_id, prefix)) for one in messages]
