"""Conversations and their items. Every session is a conversation, whichever API made it."""

from typing import Any

import msgspec
from aiohttp import web

from chatbot.api.access.authorization import CALLER, erasing_caller
from chatbot.api.json_checks import check_metadata
from chatbot.api.media.sent_images import keep_sent_files
from chatbot.api.middleware import require_accepting
from chatbot.api.openai_responses.create_bodies import (
    ITEMS_MAX,
    ChangeConversationBody,
    CreateConversationBody,
    CreateItemsBody,
)
from chatbot.api.openai_responses.item_lists import list_items, page_of, read_list_query
from chatbot.api.openai_responses.item_views import Item
from chatbot.api.openai_responses.object_ids import conversation_id, read_conversation_id, read_item_id
from chatbot.api.openai_responses.response_objects import ConversationView, DeletedConversation
from chatbot.api.openai_responses.stored_responses import BRANCH_MAX, items_of, read_input
from chatbot.api.problems import RequestFault
from chatbot.api.requests import decode_body, id_in_path, read_idempotency_key, read_raw, session_id_for_key
from chatbot.api.responses import json_response
from chatbot.api.services import SERVICES
from chatbot.api.v1.completion_views import MICROSECONDS
from chatbot.api.v1.request_checks import check_end_user, end_user_of_request, find_session, record_named_read
from chatbot.api.v1.transcript_checks import check_fields
from chatbot.sessions.conversations import TranscriptRequest
from chatbot.sessions.domain.commands import USER_ID, ChangeMetadata, CreateSession, DeleteSession, RedactMessage
from chatbot.sessions.domain.rejections import InvalidMessage, MessageNotFound, SessionDeleted
from chatbot.sessions.message_redaction import MessageRedaction
from chatbot.sessions.session_queries import SessionWithMetadata
from events.catalogue import Parameters
from projections.folds.message import MessageRow
from projections.folds.session import Session

DELETED = "item-deleted"  # the reason code of redactions

routes = web.RouteTableDef()


@routes.post("/v1/conversations")
async def create(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    settings = services.settings
    raw = await read_raw(request, settings.v1.body_max_bytes, settings.server.body_timeout_s, optional=True)
    check_fields(raw, "items")
    body = decode_body(raw, CreateConversationBody)
    metadata: dict[str, Any] = dict(body.metadata or {})
    check_metadata(metadata, settings)
    key = read_idempotency_key(request, "conversation", body)
    end_user = end_user_of_request(request)
    timeout_s = round(settings.v1.responses_timeout_hours * 3600)
    require_accepting(request)
    if body.items:
        added = await read_input(request, body.items, ITEMS_MAX, "items", keep_sent_files)
        transcript = TranscriptRequest(
            messages=added.messages,
            parameters=Parameters(),
            idempotency_key=key,
            instructions="",
            timeout_s=timeout_s,
            metadata=metadata,
            end_user=end_user,
            adds_only=True,
        )
        session = await _post(request, transcript)
    else:
        owner = request[CALLER].owner
        scope = (owner,) if end_user is None else (owner, end_user)
        described = metadata if end_user is None else {**metadata, USER_ID: end_user}
        command = CreateSession(owner, described, timeout_s, None, None, key)
        session_id = session_id_for_key(key, services.new_id(), "conversation", *scope)
        session = (await services.supervisor.ask(session_id, command, request[CALLER])).state.session
    return json_response(_view(session, metadata))


async def _post(request: web.Request, transcript: TranscriptRequest) -> Session:
    """The session after the items were added. Raises what sessions raise."""
    try:
        result = await request.app[SERVICES].conversations.post(transcript, request[CALLER])
    except InvalidMessage as error:
        raise RequestFault(str(error), (error.path or "$").replace("$.messages", "$.items")) from None
    return result.state.session


def _view(session: Session, metadata: dict[str, Any]) -> ConversationView:
    shown = {name: value if isinstance(value, str) else _as_json(value) for name, value in metadata.items()}
    return ConversationView(conversation_id(session.session_id), session.created_at_us // MICROSECONDS, shown)


def _as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _session_id(request: web.Request) -> str:
    return id_in_path(request, "conversation_id", read_conversation_id)


async def _described(request: web.Request) -> SessionWithMetadata:
    """Raises SessionNotFound."""
    reader, session_id = request.app[SERVICES].session_queries, _session_id(request)
    if request.method != "GET":  # reads with GET are recorded already
        await record_named_read(request, session_id, "session")
    session = await find_session(request, session_id)
    described = await reader.with_metadata([session])
    if not described:  # deleted in the meantime
        raise SessionDeleted(session.session_id)
    return described[0]


@routes.get("/v1/conversations/{conversation_id}")
async def retrieve(request: web.Request) -> web.Response:
    described = await _described(request)
    return json_response(_view(described.session, described.metadata))


@routes.post("/v1/conversations/{conversation_id}")
async def update(request: web.Request) -> web.Response:
    """The metadata of the request in place of all that was there, but not of the end user."""
    services = request.app[SERVICES]
    settings = services.settings
    raw = await read_raw(request, request.client_max_size, settings.server.body_timeout_s)
    body = decode_body(raw, ChangeConversationBody)
    wanted: dict[str, Any] = dict(body.metadata)
    check_metadata(wanted, settings)
    described = await _described(request)
    if end_user_of_request(request) is not None:
        wanted.pop(USER_ID, None)  # no user makes a conversation another's
    removed = {name: None for name in described.metadata if name not in wanted and name != USER_ID}
    command = ChangeMetadata(
        metadata={**wanted, **removed},
        metadata_max_bytes=settings.sessions.metadata_max_bytes,
        metadata_keys_max=settings.sessions.metadata_keys_max,
    )
    answer = await services.supervisor.ask(described.session.session_id, command, request[CALLER])
    return json_response(_view(answer.state.session, answer.state.metadata))


@routes.delete("/v1/conversations/{conversation_id}")
async def delete(request: web.Request) -> web.Response:
    """Erase the session with all its items."""
    services, session_id, caller = request.app[SERVICES], _session_id(request), erasing_caller(request)
    await check_end_user(request, session_id, caller)
    await services.supervisor.ask(session_id, DeleteSession(may_wait=True), caller)
    services.erasures.notify()
    return json_response(DeletedConversation(conversation_id(session_id)))


@routes.get("/v1/conversations/{conversation_id}/items")
async def list_conversation_items(request: web.Request) -> web.Response:
    query = read_list_query(request)
    session = await find_session(request, _session_id(request))
    rows = await _branch(request, session, session.head, BRANCH_MAX)
    return json_response(await list_items(rows, query, lambda row: items_of(request, session, row)))


async def _branch(request: web.Request, session: Session, leaf: str | None, limit: int) -> list[MessageRow]:
    if leaf is None:
        return []
    return await request.app[SERVICES].queries.path(session.no, leaf, limit=limit)


@routes.post("/v1/conversations/{conversation_id}/items")
async def add_items(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    settings = services.settings
    raw = await read_raw(request, settings.v1.body_max_bytes, settings.server.body_timeout_s)
    check_fields(raw, "items")
    body = decode_body(raw, CreateItemsBody)
    require_accepting(request)
    if not body.items:
        raise RequestFault("must have an item", "$.items")
    added = await read_input(request, body.items, ITEMS_MAX, "items", keep_sent_files)
    transcript = TranscriptRequest(
        messages=added.messages,
        parameters=Parameters(),
        session_id=_session_id(request),
        end_user=end_user_of_request(request),
        idempotency_key=read_idempotency_key(request, "items", body),
        on_busy="reject",
        instructions="",
        is_matched=False,
        adds_only=True,
    )
    session = await _post(request, transcript)
    await services.runner.wait_for(session.position)
    items: list[Item] = []
    for row in await _branch(request, session, session.head, added.recorded):
        items += await items_of(request, session, row)
    return json_response(page_of(items))


@routes.get("/v1/conversations/{conversation_id}/items/{item_id}")
async def retrieve_item(request: web.Request) -> web.Response:
    session = await find_session(request, _session_id(request))
    item, _ = await _find_item(request, session)
    return json_response(item)


async def _find_item(request: web.Request, session: Session) -> tuple[Item, MessageRow]:
    """Raises MessageNotFound."""
    given = request.match_info["item_id"]
    key = read_item_id(given)
    row = await request.app[SERVICES].queries.message(session.no, key.message_id) if key is not None else None
    items = await items_of(request, session, row) if row is not None else []
    found = next((item for item in items if item.id == given), None)
    if found is None or row is None:
        raise MessageNotFound(given[:64])
    return found, row


@routes.delete("/v1/conversations/{conversation_id}/items/{item_id}")
async def delete_item(request: web.Request) -> web.Response:
    """Redact the item: the record keeps that it was there. Returns the conversation."""
    services = request.app[SERVICES]
    described = await _described(request)
    session = described.session
    item, row = await _find_item(request, session)
    key = read_item_id(item.id)
    is_part = key is not None and row.role in ("assistant", "tool")
    command = RedactMessage(row.message_id, DELETED, key.part if is_part and key is not None else None)
    work = MessageRedaction(
        services.log, services.queries, services.session_queries, services.supervisor.ask, services.holds.version
    )
    await work.redact(session.session_id, command, erasing_caller(request))
    return json_response(_view(session, described.metadata))
