"""Responses: create, retrieve, stream from any event on, cancel, delete, and what they answer."""

import asyncio
from contextlib import nullcontext, suppress
from typing import Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct
from msgspec.structs import replace

from chatbot.api.access.authorization import CALLER, erasing_caller
from chatbot.api.media.sent_images import keep_request_images
from chatbot.api.middleware import require_accepting
from chatbot.api.openai_responses.create_bodies import InputTokensBody, ResponseBody
from chatbot.api.openai_responses.item_lists import list_items, read_list_query
from chatbot.api.openai_responses.object_ids import ResponseKey
from chatbot.api.openai_responses.response_events import NO_EVENT, EventView
from chatbot.api.openai_responses.response_objects import (
    DeletedResponse,
    InputTokens,
    RequestedResponse,
    ResponseView,
    response_view,
)
from chatbot.api.openai_responses.response_reader import ResponseReader
from chatbot.api.openai_responses.response_requests import (
    NO_COMPACTION,
    Place,
    check_response,
    checked_tools,
    place_of,
    read_response,
    response_parameters,
    unsupported,
)
from chatbot.api.openai_responses.stored_responses import (
    BRANCH_MAX,
    branch_before,
    find_response,
    items_of,
    read_input,
    requested_response,
    response_key,
)
from chatbot.api.problems import RequestFault
from chatbot.api.request_queries import query_int
from chatbot.api.requests import check_text, read_idempotency_key, read_raw
from chatbot.api.responses import json_response
from chatbot.api.server.connection_limits import cancel_when_client_leaves
from chatbot.api.services import SERVICES
from chatbot.api.streaming.reply_writer import ReplyWriter, failure_of
from chatbot.api.streaming.response_stream import HEADERS, STREAMS, stream_response
from chatbot.api.v1.chunk_view import cancelled_problem
from chatbot.api.v1.left_replies import cancel_if_running, erase_when_ended, note_refusal
from chatbot.api.v1.optional_tools import has_optional_tools, is_refusal_of_tools, key_without_tools
from chatbot.api.v1.refused_tools import TOOL_REFUSALS, refuses_tools
from chatbot.api.v1.request_checks import (
    check_end_user,
    check_model,
    end_user_of_request,
    find_session,
    record_named_read,
    reply_headers,
)
from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.conversations import TranscriptRequest
from chatbot.sessions.domain.commands import CancelReply, DeleteSession, RedactMessage, Regenerate
from chatbot.sessions.domain.context import ContextLimits, ContextMessage, estimate_text_tokens, estimate_tokens
from chatbot.sessions.domain.rejections import InvalidMessage, MessageNotFound, SessionDeleted
from chatbot.sessions.domain.transcript import TranscriptMessage
from chatbot.sessions.message_redaction import MessageRedaction
from chatbot.sessions.recorded_replies import RecordedTurn
from chatbot.sessions.replies.reply import Reply
from events.schema.naming import CONVERSATION, STATELESS
from events.schema.parameters import ResponseOptions
from projections.folds.message import MessageRow

UNSTORED_S = 60  # after which a response that is not to be stored is erased, if that could not be done at its end
DELETED = "response-deleted"  # the reason code of redactions
SEQUENCE_MAX = 2**31 - 1
ONE = "/v1/responses/{response_id:(?!compact$|input_tokens$)[^/]+}"  # these two have calls of their own

routes = web.RouteTableDef()


class CreateRequest(Struct, frozen=True):
    """What a request asks for, besides its messages. `ignores_tools`: the model gets none of its tools."""

    model: str
    stream: bool
    background: bool
    is_stored: bool
    is_cancelled_with_client: bool
    has_key: bool
    ignores_tools: bool


class Requested(Struct, frozen=True):
    """A reply that was requested, as a response. `version`: of the event that records the request."""

    response: RequestedResponse
    reply: Reply
    version: int


@routes.post("/v1/responses")
async def create(request: web.Request) -> web.StreamResponse:
    asked, transcript = await _read_create(request)
    if asked.is_cancelled_with_client:
        cancel_when_client_leaves(request)
    with request.app[STREAMS].limit.acquire(request[CALLER].owner) if asked.stream else nullcontext():
        requested = await _request_reply(request, transcript)
        if has_optional_tools(transcript.parameters):
            if asked.background:
                note_refusal(request, asked.model, requested.reply)
            elif await refuses_tools(request, requested.reply):
                request.app[TOOL_REFUSALS].note(asked.model)
                asked = replace(asked, ignores_tools=True)
                requested = await _request_without_tools(request, requested, transcript)
        del transcript  # it may have megabytes
        session_id, reply = requested.response.session_id, requested.reply
        erasure = None if asked.is_stored else erase_when_ended(request, session_id, reply)
        try:
            if asked.stream:
                return await _stream(request, asked, requested)
            return await _answer(request, asked, requested, erasure)
        finally:
            if asked.is_cancelled_with_client:
                cancel_if_running(request, session_id, reply)


async def _answer(
    request: web.Request, asked: CreateRequest, requested: Requested, erasure: asyncio.Task[None] | None
) -> web.Response:
    reply = requested.reply
    headers = _headers(request, asked, requested)
    if asked.background and reply.outcome is None:
        status: Literal["queued", "in_progress"] = "in_progress" if reply.version else "queued"
        return json_response(response_view(requested.response, None, status=status), headers=headers)
    outcome = await reply.wait_end()
    if erasure is not None:
        await asyncio.shield(erasure)
    if not asked.background and outcome.status == "cancelled":
        raise cancelled_problem()
    if not asked.background and outcome.status != "complete":
        raise failure_of(outcome, is_final=asked.has_key)  # a repetition gets the same failure
    return json_response(response_view(requested.response, outcome), headers=headers)


async def _stream(request: web.Request, asked: CreateRequest, requested: Requested) -> web.StreamResponse:
    """The stream begins at once: with the id in its first event, a reader that is cut off goes on elsewhere."""
    streams, session_id = request.app[STREAMS], requested.response.session_id
    running_reply = request.app[SERVICES].supervisor.running_reply
    view = EventView(requested.response)
    writer = ReplyWriter(streams.flush_scheduler, session_id, requested.reply, running_reply, view)
    return await stream_response(request, writer.write, headers={**HEADERS, **_headers(request, asked, requested)})


def _headers(request: web.Request, asked: CreateRequest, requested: Requested) -> dict[str, str]:
    session_id = requested.response.session_id
    return reply_headers(request, session_id, requested.version, ignores_tools=asked.ignores_tools)


async def _read_create(request: web.Request) -> tuple[CreateRequest, TranscriptRequest]:
    """Raises RequestFault, Problem, SessionNotFound, and what `read_raw` and uploads raise."""
    services = request.app[SERVICES]
    settings = services.settings
    raw = await read_raw(request, settings.v1.body_max_bytes, settings.server.body_timeout_s)
    body = read_response(raw, ResponseBody)
    del raw  # it may have megabytes
    check_response(body)
    check_model(services, body.model)
    place = _place(body)
    if body.instructions is not None:
        check_text(body.instructions, "$.instructions", settings.v1.message_max_chars, blank=True)
    key = read_idempotency_key(request, "response", body)
    end_user = end_user_of_request(request, {"user": body.user, "safety_identifier": body.safety_identifier})
    require_accepting(request)
    added = await read_input(request, body.input, settings.v1.messages_max, "input", keep_request_images)
    takes = services.provider.takes
    parameters = response_parameters(
        body,
        settings.chat,
        services.suggested_tokens(body.model),
        added.recorded,
        takes_tools=(takes is None or "tools" in takes) and not request.app[TOOL_REFUSALS].has_refused(body.model),
    )
    messages = added.messages
    is_stored = body.store is not False
    if not is_stored and place.previous is not None:
        session_id, leaf = place.previous.session_id, place.previous.reply_id
        await check_end_user(request, session_id, end_user, request[CALLER])
        await record_named_read(request, session_id, "history")
        messages = (*await branch_before(request, session_id, leaf), *messages)
        place = Place()
    is_named = place.session_id is not None
    transcript = TranscriptRequest(
        messages=messages,
        parameters=parameters,
        kind=CONVERSATION if is_stored else STATELESS,
        session_id=place.session_id,
        end_user=end_user,
        idempotency_key=key,
        stream=bool(body.stream) or bool(body.background),
        instructions=body.instructions or "",
        timeout_s=_timeout_s(settings.v1.responses_timeout_hours) if is_stored else UNSTORED_S,
        is_matched=not is_named,
        parent_id=place.previous.reply_id if place.previous is not None else UNSET,
    )
    rule = settings.v1.cancel_on_disconnect
    is_left_alone = key is not None or bool(body.background)
    asked = CreateRequest(
        model=body.model,
        stream=bool(body.stream),
        background=bool(body.background),
        is_stored=is_stored,
        is_cancelled_with_client=not is_left_alone and (rule == "always" or (rule == "stateless" and not is_stored)),
        has_key=key is not None,
        ignores_tools=bool(body.tools) and parameters.tools is None,
    )
    return asked, transcript


def _timeout_s(hours: float) -> int:
    """Whole seconds; 0: the session never expires."""
    return max(1, round(hours * 3600)) if hours else 0


def _place(body: ResponseBody | InputTokensBody) -> Place:
    named = body.conversation
    return place_of(named if named is None or isinstance(named, str) else named.id, body.previous_response_id)


async def _request_reply(request: web.Request, transcript: TranscriptRequest) -> Requested:
    """Record the request. Raises what sessions raise."""
    services = request.app[SERVICES]
    try:
        result = await services.conversations.post(transcript, request[CALLER])
    except InvalidMessage as error:
        raise RequestFault(str(error), (error.path or "$").replace("$.messages", "$.input")) from None
    return await _requested(request, result)


async def _request_without_tools(request: web.Request, refused: Requested, transcript: TranscriptRequest) -> Requested:
    """Record the request for another reply to the same input, without tools. Raises what sessions raise."""
    services = request.app[SERVICES]
    command = Regenerate(
        reply_id=services.new_id(),
        message_id=refused.reply.reply_id,
        parameters=refused.reply.parameters,
        stream=transcript.stream,
        idempotency_key=key_without_tools(transcript.idempotency_key),
        without_tools=True,
    )
    return await _requested(
        request, await services.supervisor.ask(refused.response.session_id, command, request[CALLER])
    )


async def _requested(request: web.Request, result: CommandResult) -> Requested:
    services, reply = request.app[SERVICES], result.reply
    if reply is None:
        raise RuntimeError("a command that requests a reply was answered without one")
    session_id = result.state.session.session_id
    version = result.request_version or reply.posted_version
    (event,) = await services.log.read(session_id, after=version - 1, limit=1)
    model = reply.parameters.model or reply.model or services.provider.model
    response = RequestedResponse(session_id, reply.reply_id, event.recorded_at_us, model, reply.parameters)
    return Requested(response, reply, version)


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
    """Erase the session if it has nothing else; otherwise redact the reply, and the input that nothing else answers."""
    services, key = request.app[SERVICES], response_key(request)
    caller = erasing_caller(request)
    await check_end_user(request, key.session_id, end_user_of_request(request, {}), caller)
    session = await services.session_queries.find_recorded(key.session_id, caller)
    if session.is_deleted:
        raise MessageNotFound(key.reply_id)
    turn = await find_response(request, session, key.reply_id)
    refused = await _refused_siblings(request, turn)
    is_only = len(refused) + 1 >= len(turn.row.siblings)
    own = [row.message_id for row in await _input_rows(request, turn)] if is_only else []
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
    place = _place(body)
    require_accepting(request)
    most = settings.v1.messages_max
    messages: tuple[TranscriptMessage, ...] = ()
    if body.input:
        messages = (await read_input(request, body.input, most, "input", keep_request_images)).messages
    if place.session_id is not None:
        leaf = place.previous.reply_id if place.previous is not None else None
        await check_end_user(request, place.session_id, end_user_of_request(request, {}), request[CALLER])
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
