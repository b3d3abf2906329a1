"""OpenAI's API under /v1: models and chat completions, complete or as a stream of chunks."""

from contextlib import nullcontext

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from chatbot.api.access.authorization import CALLER
from chatbot.api.media.sent_images import keep_request_images
from chatbot.api.middleware import require_accepting
from chatbot.api.requests import read_idempotency_key, read_raw
from chatbot.api.responses import json_response
from chatbot.api.server.connection_limits import cancel_when_client_leaves
from chatbot.api.services import SERVICES
from chatbot.api.streaming.reply_writer import ReplyWriter, failure_of
from chatbot.api.streaming.response_stream import HEADERS, STREAMS, stream_response
from chatbot.api.v1.chunk_view import ChunkView, cancelled_problem
from chatbot.api.v1.completion_bodies import CompletionBody
from chatbot.api.v1.completion_requests import check_completion, completion_parameters, read_completion
from chatbot.api.v1.completion_views import MICROSECONDS, ModelObject, ModelObjects, completion_view
from chatbot.api.v1.conversation_names import NamedConversation, checked_name, conversation_of
from chatbot.api.v1.left_replies import cancel_if_running
from chatbot.api.v1.optional_tools import has_optional_tools
from chatbot.api.v1.refused_tools import TOOL_REFUSALS, await_begin, refuses_tools, without_tools
from chatbot.api.v1.request_checks import check_model, end_user_of_request, reply_headers
from chatbot.api.v1.request_messages import images_of, request_messages
from chatbot.config.sections.v1_settings import V1Settings
from chatbot.sessions.conversations import TranscriptRequest
from chatbot.sessions.replies.reply import Reply
from events.catalogue import ConversationName, Parameters
from events.schema.naming import CONVERSATION

OWNED_BY = "chatbot"
# Open WebUI's ids of the user's message and of the reply that is to be written.
QUESTION_FIELD, REPLY_FIELD = "X-OpenWebUI-User-Message-Id", "X-OpenWebUI-Message-Id"

routes = web.RouteTableDef()


class CompletionRequest(Struct, frozen=True):
    """What a request asks for, besides its transcript, which is not kept while the reply is written. `ignores_tools`:
    the model gets none of its tools.
    """

    model: str
    stream: bool
    include_usage: bool
    is_cancelled_with_client: bool
    has_key: bool
    ignores_tools: bool


class RequestedCompletion(Struct, frozen=True):
    """A reply that was requested. `version`: of the event that records the request."""

    session_id: str
    reply: Reply
    version: int


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """As of the last health check, so that this call does not reach the model server."""
    provider = request.app[SERVICES].provider
    names = [provider.model] if provider.model else []
    names += sorted(provider.models - {provider.model})
    return json_response(ModelObjects([_model_object(name) for name in names]))


@routes.get("/v1/models/{model:.+}")
async def model(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    check_model(request.app[SERVICES], name)
    return json_response(_model_object(name))


@routes.post("/v1/chat/completions")
async def create_completion(request: web.Request) -> web.StreamResponse:
    asked, transcript = await _read_request(request)
    require_accepting(request)
    if asked.is_cancelled_with_client:
        cancel_when_client_leaves(request)
    with request.app[STREAMS].limit.acquire(request[CALLER].owner) if asked.stream else nullcontext():
        requested = await _request_reply(request, transcript)
        try:
            if has_optional_tools(transcript.parameters) and await refuses_tools(request, requested.reply):
                request.app[TOOL_REFUSALS].note(asked.model)
                asked = replace(asked, ignores_tools=True)
                requested = await _request_reply(request, without_tools(transcript))
            del transcript  # it may have megabytes
            if asked.stream:
                return await _streamed_response(request, asked, requested)
            return await _complete_response(request, asked, requested)
        finally:
            if asked.is_cancelled_with_client:
                cancel_if_running(request, requested.session_id, requested.reply)


def _headers(request: web.Request, asked: CompletionRequest, requested: RequestedCompletion) -> dict[str, str]:
    return reply_headers(request, requested.session_id, requested.version, ignores_tools=asked.ignores_tools)


async def _complete_response(
    request: web.Request, asked: CompletionRequest, requested: RequestedCompletion
) -> web.Response:
    reply = requested.reply
    outcome = await reply.wait_end()
    _raise_failure(reply, asked)
    field = request.app[SERVICES].settings.v1.reasoning_field
    view = completion_view(reply.reply_id, outcome, asked.model, field)
    return json_response(view, headers=_headers(request, asked, requested))


async def _streamed_response(
    request: web.Request, asked: CompletionRequest, requested: RequestedCompletion
) -> web.StreamResponse:
    """The stream begins with the reply, so that one that fails before has a status of its own, which clients act upon;
    or when the next ping is due, before proxies take the connection for dead.
    """
    services, streams, reply = request.app[SERVICES], request.app[STREAMS], requested.reply
    await await_begin(request, reply)
    _raise_failure(reply, asked)
    created_at_us = reply.started_at_us or services.clock()
    view = ChunkView(
        reply.reply_id,
        reply.model or asked.model,
        created_at_us // MICROSECONDS,
        services.settings.v1.reasoning_field,
        include_usage=asked.include_usage,
    )
    running_reply = services.supervisor.running_reply
    writer = ReplyWriter(streams.flush_scheduler, requested.session_id, reply, running_reply, view)
    return await stream_response(request, writer.write, headers={**HEADERS, **_headers(request, asked, requested)})


def _raise_failure(reply: Reply, asked: CompletionRequest) -> None:
    """Raises Problem for a reply that ended otherwise than complete, LogUnavailable if its end cannot be recorded."""
    outcome = reply.outcome
    if outcome is None:
        if reply.unrecorded is not None:
            raise reply.unrecorded
    elif outcome.status == "cancelled":
        raise cancelled_problem()
    elif outcome.status != "complete":
        raise failure_of(outcome, is_final=asked.has_key)  # a repetition gets the same failure


async def _read_request(request: web.Request) -> tuple[CompletionRequest, TranscriptRequest]:
    """Read and check the request; its images are on disk then. Raises RequestFault, Problem, and what `read_raw` and
    uploads raise.
    """
    v1, headers = request.app[SERVICES].settings.v1, request.headers
    body, parameters = await _read_body(request)
    is_streamed, images = bool(body.stream), images_of(body.messages)
    conversation = conversation_of(headers, body.metadata, v1.conversation_fields, stream=is_streamed)
    key = read_idempotency_key(request, "completion", body)
    client_id = checked_name(headers.get(QUESTION_FIELD), f"header.{QUESTION_FIELD}")
    reply_client_id = checked_name(headers.get(REPLY_FIELD), f"header.{REPLY_FIELD}")
    end_user = end_user_of_request(request, body)
    if images:
        require_accepting(request)
    files = await keep_request_images(request, images, "$.messages") if images else {}
    transcript = TranscriptRequest(
        messages=request_messages(body.messages, files, v1.message_max_chars),
        parameters=parameters,
        kind=conversation.kind,
        session_id=conversation.session_id,
        name=ConversationName(conversation.source, conversation.value) if conversation.source else None,
        end_user=end_user,
        idempotency_key=key,
        client_id=client_id or None,
        reply_client_id=reply_client_id or None,
        stream=is_streamed,
        without_stop=body.stop == [],
    )
    asked = CompletionRequest(
        model=body.model,
        stream=is_streamed,
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        is_cancelled_with_client=key is None and _is_cancelled_with_client(v1, conversation),
        has_key=key is not None,
        ignores_tools=bool(body.tools) and parameters.tools is None,
    )
    return asked, transcript


async def _read_body(request: web.Request) -> tuple[CompletionBody, Parameters]:
    """The body and the parameters that it gives. The bytes are gone then: they may be many, and images are in the body
    once more.
    """
    services = request.app[SERVICES]
    settings = services.settings
    raw = await read_raw(request, settings.v1.body_max_bytes, settings.server.body_timeout_s)
    body = read_completion(raw)
    check_completion(body, settings.v1.messages_max)
    check_model(services, body.model)
    takes = services.provider.takes
    takes_tools = (takes is None or "tools" in takes) and not request.app[TOOL_REFUSALS].has_refused(body.model)
    default_tokens = services.suggested_tokens(body.model)  # clients of /v1 expect a reply to end by itself
    return body, completion_parameters(body, raw, settings.chat, default_tokens, takes_tools=takes_tools)


def _is_cancelled_with_client(v1: V1Settings, conversation: NamedConversation) -> bool:
    """Whether a reply is of no use once its client has left. A request with an Idempotency-Key is about to come again,
    so its reply goes on in any case.
    """
    return v1.cancel_on_disconnect == "always" or (
        v1.cancel_on_disconnect == "stateless" and conversation.kind != CONVERSATION
    )


def _model_object(name: str) -> ModelObject:
    return ModelObject(name, created=0, owned_by=OWNED_BY)  # when it was made is not known


async def _request_reply(request: web.Request, transcript: TranscriptRequest) -> RequestedCompletion:
    """Record the request, in the conversation that it names or in a session of its own. Raises what sessions raise."""
    result = await request.app[SERVICES].conversations.post(transcript, request[CALLER])
    if result.reply is None:
        raise RuntimeError("a command that requests a reply was answered without one")
    session_id = result.state.session.session_id
    return RequestedCompletion(session_id, result.reply, result.request_version or result.reply.posted_version)
