"""Responses are created: a request is read, its reply requested, and answered with as a whole or as events."""

import asyncio
from contextlib import nullcontext
from typing import Literal

from aiohttp import web
from msgspec import UNSET, Struct
from msgspec.structs import replace

from chatbot.api.access.authorization import CALLER
from chatbot.api.media.sent_images import keep_sent_files
from chatbot.api.middleware import require_accepting
from chatbot.api.openai_responses.create_bodies import ResponseBody
from chatbot.api.openai_responses.response_events import EventView
from chatbot.api.openai_responses.response_objects import RequestedResponse, response_view
from chatbot.api.openai_responses.response_requests import (
    Place,
    check_response,
    read_place,
    read_response,
    response_parameters,
)
from chatbot.api.openai_responses.stored_responses import branch_before, check_previous, read_input
from chatbot.api.problems import Problem, RequestFault
from chatbot.api.requests import check_text, read_idempotency_key, read_raw
from chatbot.api.responses import json_response
from chatbot.api.server.connection_limits import cancel_when_client_leaves
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.api.streaming.reply_writer import ReplyWriter, failure_of
from chatbot.api.streaming.response_stream import HEADERS, STREAMS, stream_response
from chatbot.api.v1.chunk_view import cancelled_problem
from chatbot.api.v1.left_replies import cancel_if_running, erase_when_ended, note_refusal
from chatbot.api.v1.optional_tools import has_optional_tools, key_without_tools
from chatbot.api.v1.refused_tools import TOOL_REFUSALS, refuses_tools
from chatbot.api.v1.request_checks import (
    check_end_user,
    check_model,
    end_user_of_request,
    record_named_read,
    reply_headers,
)
from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.conversations import TranscriptRequest
from chatbot.sessions.domain.commands import Regenerate
from chatbot.sessions.domain.rejections import InvalidMessage
from chatbot.sessions.replies.reply import Outcome, Reply
from events.schema.naming import CONVERSATION, STATELESS

UNSTORED_S = 60  # after which a response that is not to be stored is erased, if that could not be done at its end

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
    if not asked.background and outcome.status != "complete":
        raise _problem(request, asked, requested.response.id, outcome)
    return json_response(response_view(requested.response, outcome), headers=headers)


def _problem(request: web.Request, asked: CreateRequest, response_id: str, outcome: Outcome) -> Problem:
    """The reply has failed, or was cancelled. What is stored is found by the response's id."""
    if outcome.status == "cancelled":
        problem = cancelled_problem()
    else:  # a repetition with the key gets the same failure; one without it would record its input a second time
        problem = failure_of(outcome, is_final=asked.has_key or asked.is_stored)
    if asked.is_stored:
        prefix = prefix_of(request, request.app[SERVICES].settings.server)
        problem.extra["content_location"] = f"{prefix}/v1/responses/{response_id}"
        problem.detail += f"; the response is {response_id}"
    return problem


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
    place = read_place(body)
    if body.instructions is not None:
        check_text(body.instructions, "$.instructions", settings.v1.message_max_chars, blank=True)
    key = read_idempotency_key(request, "response", body)
    end_user = end_user_of_request(request, body)
    require_accepting(request)
    added = await read_input(request, body.input, settings.v1.messages_max, "input", keep_sent_files)
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
    if place.previous is not None:
        await check_previous(request, place.previous, must_have_ended=not is_stored)
    if not is_stored and place.previous is not None:
        session_id, leaf = place.previous.session_id, place.previous.reply_id
        await check_end_user(request, session_id, request[CALLER], body)
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
