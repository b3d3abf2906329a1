"""Responses that were created: retrieve, stream from any event on, cancel, delete, and what they answer."""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
from aiohttp import web

from chatbot.api.access.authorization import CALLER, erasing_caller
from chatbot.api.media.sent_images import keep_sent_files
from chatbot.api.middleware import require_accepting
from chatbot.api.openai_responses.create_bodies import InputTokensBody
from chatbot.api.openai_responses.item_lists import list_items, read_list_query
from chatbot.api.openai_responses.object_ids import ResponseKey
from chatbot.api.openai_responses.response_events import NO_EVENT, EventView
from chatbot.api.openai_responses.response_objects import DeletedResponse, InputTokens, ResponseView, response_view
from chatbot.api.openai_responses.response_reader import ResponseReader
from chatbot.api.openai_responses.response_requests import (
    NO_COMPACTION,
    checked_tools,
    read_place,
    read_response,
    unsupported,
)
from chatbot.api.openai_responses.stored_responses import (
    BRANCH_MAX,
    branch_before,
    check_previous,
    find_response,
    items_of,
    read_input,
    requested_response,
    response_key,
)
from chatbot.api.problems import RequestFault
from chatbot.api.request_queries import query_int
from chatbot.api.requests import check_text, read_raw
from chatbot.api.responses import json_response
from chatbot.api.services import SERVICES
from chatbot.api.streaming.response_stream import STREAMS, stream_response
from chatbot.api.v1.optional_tools import is_refusal_of_tools
from chatbot.api.v1.request_checks import check_end_user, find_session, record_named_read
from chatbot.sessions.domain.commands import CancelReply, DeleteSession, RedactMessage
from chatbot.sessions.domain.context import ContextLimits, ContextMessage, estimate_text_tokens, estimate_tokens
from chatbot.sessions.domain.rejections import MessageNotFound, SessionDeleted
from chatbot.sessions.domain.transcript import TranscriptMessage
from chatbot.sessions.message_redaction import MessageRedaction
from chatbot.sessions.recorded_replies import RecordedTurn
from events.schema.parameters import ResponseOptions
from projections.folds.message import MessageRow

DELETED = "response-deleted"  # the reason code of redactions
SEQUENCE_MAX = 2**31 - 1
ONE = "/v1/responses/{response_id:(?!compact$|input_tokens$)[^/]+}"  # these two have calls of their own

routes = web.RouteTableDef()


@routes.get(ONE, allow_head=False)
async def retrieve(request: web.Request) -> web.StreamResponse:
    key = response_key(request)
    wants_stream = request.query.get("stream", "false")
    if wants_stream not in ("true", "false"):
        raise RequestFault("must be true or false", "query.stream")
    after = query_int(request, "starting_after", NO_EVENT, NO_EVENT, SEQUENCE_MAX)
    if wants_stream == "true":
        return await _follow(request, key, after)
    return json_response(_view_of(await _find(request, key)))


async def _find(request: web.Request, key: ResponseKey) -> RecordedTurn:
    """Raises RequestFault, SessionNotFound, MessageNotFound."""
    return await find_response(request, await find_session(request, key.session_id), key.reply_id)


def _view_of(turn: RecordedTurn) -> ResponseView:
    return response_view(requested_response(turn), turn.outcome, status="queued" if turn.is_queued else "in_progress")


async def _follow(request: web.Request, key: ResponseKey, after: int) -> web.StreamResponse:
    services, streams = request.app[SERVICES], request.app[STREAMS]
    with streams.limit.acquire(request[CALLER].owner), services.feeds.open(key.session_id) as channel:
        turn = await _find(request, key)
        channel.advance_to(turn.session.version)
        await services.cluster.watch(turn.session)

        async def find() -> RecordedTurn | None:
            with suppress(MessageNotFound, SessionDeleted):
                return await _find(request, key)
            return None

        view = EventView(requested_response(turn), after)
        reader = ResponseReader(services, streams.flush_scheduler, key, view, channel, find)
        return await stream_response(request, reader.write)


@routes.post(f"{ONE}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """The response as it is then; one that has ended is left as it is, so that this may be repeated."""
    services, key = request.app[SERVICES], response_key(request)
    await record_named_read(request, key.session_id, "history")  # the answer has the output
    turn = await _find(request, key)
    if turn.outcome is None:
        await services.supervisor.ask(key.session_id, CancelReply(reply_id=key.reply_id), request[CALLER])
        turn = await _find(request, key)
    return json_response(_view_of(turn))


@routes.delete(ONE)
async def delete(request: web.Request) -> web.Response:
    """Erase the session if it has nothing else; otherwise redact the reply, and the input from which no other
    branch goes on. Instructions, metadata and the like stay until the session is erased.
    """
    services, key = request.app[SERVICES], response_key(request)
    caller = erasing_caller(request)
    await check_end_user(request, key.session_id, caller)
    session = await services.session_queries.find_recorded(key.session_id, caller)
    if session.is_deleted:
        raise MessageNotFound(key.reply_id)
    turn = await find_response(request, session, key.reply_id)
    refused = await _refused_siblings(request, turn)
    is_only = len(refused) + 1 >= len(turn.row.siblings)
    own = [row.message_id for row in _unshared(await _input_rows(request, turn))] if is_only else []
    tree = await services.queries.message_tree(session.no, limit=len(own) + len(refused) + 2)
    is_alone = {one.message_id for one in tree} == {key.reply_id, *own, *refused}
    if is_alone and not _options(turn).in_conversation:
        await services.supervisor.ask(key.session_id, DeleteSession(may_wait=True), caller)
        services.erasures.notify()
    else:
        queries, reader = services.queries, services.session_queries
        work = MessageRedaction(services.log, queries, reader, services.supervisor.ask, services.holds.version)
        for message_id in (*own, key.reply_id):  # the reply last: it is not found any more once all is done
            await work.redact(key.session_id, RedactMessage(message_id, DELETED), caller)
    return json_response(DeletedResponse(request.match_info["response_id"]))


def _unshared(rows: Sequence[MessageRow]) -> Sequence[MessageRow]:
    """The newest of these messages, which follow each other, from which no other branch goes on."""
    first = next((index for index in reversed(range(len(rows))) if len(rows[index].siblings) > 1), 0)
    return rows[first:]


async def _refused_siblings(request: web.Request, turn: RecordedTurn) -> list[str]:
    """The other replies to the same input of which none is a response: attempts with tools that were refused."""
    refused = []
    for reply_id in turn.row.siblings:
        if reply_id != turn.row.message_id:
            with suppress(MessageNotFound):
                other = await find_response(request, turn.session, reply_id)
                if other.outcome is None or not is_refusal_of_tools(other.outcome):
                    break  # the input answers this one, too
                refused.append(reply_id)
    return refused


def _options(turn: RecordedTurn) -> ResponseOptions:
    return requested_response(turn).options


async def _input_rows(request: web.Request, turn: RecordedTurn) -> list[MessageRow]:
    """The messages that the request for the response has added, oldest first."""
    parent_id = turn.row.parent_id
    if parent_id is None:
        return []
    services = request.app[SERVICES]
    return await services.queries.path(turn.session.no, parent_id, limit=_options(turn).input_messages)


@routes.get(f"{ONE}/input_items")
async def input_items(request: web.Request) -> web.Response:
    query, key = read_list_query(request), response_key(request)
    turn = await _find(request, key)
    rows = await _input_rows(request, turn)
    return json_response(await list_items(rows, query, lambda row: items_of(request, turn.session, row)))


@routes.post("/v1/responses/input_tokens")
async def count_input_tokens(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    settings = services.settings
    raw = await read_raw(request, settings.v1.body_max_bytes, settings.server.body_timeout_s)
    body = read_response(raw, InputTokensBody)
    tools, _ = checked_tools(body, settings.chat)
    if body.instructions is not None:
        check_text(body.instructions, "$.instructions", settings.v1.message_max_chars, blank=True)
    place = read_place(body)
    require_accepting(request)
    most = settings.v1.messages_max
    messages: tuple[TranscriptMessage, ...] = ()
    if body.input:
        messages = (await read_input(request, body.input, most, "input", keep_sent_files)).messages
    if place.session_id is not None:
        leaf = place.previous.reply_id if place.previous is not None else None
        if place.previous is not None:
            await check_previous(request, place.previous)
        await check_end_user(request, place.session_id, request[CALLER])
        await record_named_read(request, place.session_id, "history")
        messages = (*await branch_before(request, place.session_id, leaf), *messages)
    limits = ContextLimits(messages=BRANCH_MAX, image_tokens=settings.chat.image_tokens)
    counted = (ContextMessage("", None, one.role, "", one.parts, calls="") for one in messages)
    tokens = sum(estimate_tokens(one, limits) for one in counted)
    tokens += estimate_text_tokens(body.instructions or "")
    tokens += estimate_text_tokens(msgspec.json.encode(tools).decode()) if tools else 0
    return json_response(InputTokens(tokens))


@routes.post("/v1/responses/compact")
async def compact(request: web.Request) -> web.Response:
    raise unsupported(NO_COMPACTION, "$.input")
