"""Chat: post a message and get its reply, complete or as a stream of frames."""

from aiohttp import web
from msgspec import Struct

from chatbot.api.access.authorization import CALLER
from chatbot.api.media.decoded_files import DecodedFile
from chatbot.api.media.media_access import MediaAccess
from chatbot.api.media.media_uploads import UPLOADS, require_images_taken
from chatbot.api.media.posted_files import resolve_files
from chatbot.api.message_parts import check_message, files_of, parts_of_message
from chatbot.api.middleware import require_accepting
from chatbot.api.request_bodies import ChatBody, RegenerateBody
from chatbot.api.requests import (
    Cursor,
    check_chat,
    check_reply,
    if_match,
    last_event_id,
    parameters_of,
    prefers_async,
    read_body,
    read_idempotency_key,
    session_id_of,
)
from chatbot.api.response_bodies import AcceptedView
from chatbot.api.responses import chat_view, json_response
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.api.streaming.reply_writer import FrameView, ReplyWriter, failure_of
from chatbot.api.streaming.response_stream import STREAMS, stream_response
from chatbot.sessions.domain.commands import PostMessage, Regenerate
from chatbot.sessions.feeds.reader_cursor import ReaderCursor
from chatbot.sessions.replies.recorded_text import recorded_offset
from chatbot.sessions.replies.reply import Reply
from events.media import MediaStat
from events.schema.parts import Media, Parts, stored_parts, text_of

routes = web.RouteTableDef()


class RequestedReply(Struct, frozen=True):
    """A reply that was requested. `version` is that of the event that records the request."""

    session_id: str
    reply: Reply
    version: int


class PostedMessage(Struct, frozen=True):
    """A message as it is recorded. `parts` are empty where it is one text."""

    content: str
    parts: Parts = ()


@routes.post("/api/chat")
async def chat(request: web.Request) -> web.Response:
    if prefers_async(request):
        return _accepted_response(request, await _post_message(request, stream=True))
    return await _complete_response(await _post_message(request, stream=False))


@routes.post("/api/chat/stream")
async def chat_stream(request: web.Request) -> web.StreamResponse:
    if prefers_async(request):
        return _accepted_response(request, await _post_message(request, stream=True))
    after = _resume_cursor(request)
    with request.app[STREAMS].limit.acquire(request[CALLER].owner):
        return await _streamed_response(request, await _post_message(request, stream=True), after)


@routes.post("/api/sessions/{session_id}/regenerate")
async def regenerate(request: web.Request) -> web.StreamResponse:
    """As chat, or as chat_stream for a client that accepts an event stream."""
    if prefers_async(request):
        return _accepted_response(request, await _request_regeneration(request, stream=True))
    if "text/event-stream" not in request.headers.get("Accept", ""):
        return await _complete_response(await _request_regeneration(request, stream=False))
    after = _resume_cursor(request)
    with request.app[STREAMS].limit.acquire(request[CALLER].owner):
        return await _streamed_response(request, await _request_regeneration(request, stream=True), after)


async def _complete_response(requested: RequestedReply) -> web.Response:
    reply = requested.reply
    outcome = await reply.wait_end()
    if outcome.status in ("complete", "cancelled"):
        return json_response(chat_view(requested.session_id, reply, outcome))
    ids = {"message_id": reply.reply_id, "user_message_id": reply.message_id, "version": outcome.version}
    raise failure_of(outcome, partial=outcome.content, **ids)


def _accepted_response(request: web.Request, requested: RequestedReply) -> web.Response:
    """202 with the cursor to follow the reply from. The same for each repetition of the request."""
    cursor = str(requested.version)
    view = AcceptedView(
        session_id=requested.session_id,
        message_id=requested.reply.reply_id,
        user_message_id=requested.reply.message_id,
        version=requested.version,
        cursor=cursor,
    )
    prefix = prefix_of(request, request.app[SERVICES].settings.server)
    feed = f"{prefix}/api/sessions/{requested.session_id}/stream?after={cursor}"
    return json_response(view, status=202, headers={"Location": feed, "Preference-Applied": "respond-async"})


def _resume_cursor(request: web.Request) -> Cursor | None:
    """The cursor of the last frame that the client has of this reply: only a repeated request has one.

    Raises RequestFault.
    """
    cursor = last_event_id(request)
    return cursor if "Idempotency-Key" in request.headers else None


async def _streamed_response(
    request: web.Request, requested: RequestedReply, after: Cursor | None
) -> web.StreamResponse:
    """A reader that leaves does not stop the reply, and the history will have its whole text."""
    services, cursor = request.app[SERVICES], None
    if after is not None:
        offset = after.offset
        if offset is None:
            offset = await recorded_offset(services.log, requested.session_id, after.version)
        cursor = ReaderCursor(after.version, offset)
    session_id, reply, streams = requested.session_id, requested.reply, request.app[STREAMS]
    view = FrameView(session_id, reply, streams.retry_ms)
    running_reply = services.supervisor.running_reply
    writer = ReplyWriter(streams.flush_scheduler, session_id, reply, running_reply, view, cursor)
    return await stream_response(request, writer.write, first=writer.begin())


async def _post_message(request: web.Request, *, stream: bool) -> RequestedReply:
    """Record the message. Raises what read_body, check_chat, resolve_files and the session raise."""
    services = request.app[SERVICES]
    body = await read_body(request, ChatBody, services.settings.server.body_timeout_s)
    session_id = check_chat(body, services.settings)
    key, _ = read_idempotency_key(request, "chat", body), if_match(request)  # refused before a file is kept
    message = await _message_of(request, session_id, body)
    command = PostMessage(
        message_id=services.new_id(),
        reply_id=services.new_id(),
        content=message.content,
        parameters=parameters_of(body),
        parent_id=body.parent_id,
        on_busy=body.on_busy,
        stream=stream,
        idempotency_key=key,
        without_stop=body.stop == [],
        role=body.role,
        parts=message.parts,
    )
    return await _send_command(request, session_id, command)


async def _message_of(request: web.Request, session_id: str, body: ChatBody) -> PostedMessage:
    """The message that the request posts, with its files on disk. Raises what check_message and resolve_files raise."""
    if isinstance(body.message, str):
        return PostedMessage(body.message)
    require_accepting(request)
    services = request.app[SERVICES]
    check_message(body.message, body.role, services.settings.chat)
    posted, files = files_of(body.message), dict[str, Media]()
    if posted:
        caller = request[CALLER]
        session = await services.session_queries.peek(session_id, caller)
        store = services.log.media

        async def keep(file: DecodedFile) -> MediaStat:
            require_images_taken(services.provider.takes, file.path)
            upload = await request.app[UPLOADS].put(
                store, file.pieces(), caller, now_us=services.clock(), size=len(file.data), path=file.fault_path
            )
            return upload.stat

        access = MediaAccess(store, services.queries, services.session_queries, caller)
        files = await resolve_files(posted, session, store, access, keep)
    parts = parts_of_message(body.message, files)
    return PostedMessage(text_of(parts), stored_parts(parts))


async def _request_regeneration(request: web.Request, *, stream: bool) -> RequestedReply:
    """Request another reply to a message. Raises what read_body and the session raise."""
    services = request.app[SERVICES]
    timeout_s = services.settings.server.body_timeout_s
    body = await read_body(request, RegenerateBody, timeout_s, optional=True)
    check_reply(body, services.settings)
    command = Regenerate(
        reply_id=services.new_id(),
        message_id=body.message_id,
        parameters=parameters_of(body),
        on_busy=body.on_busy,
        stream=stream,
        idempotency_key=read_idempotency_key(request, "regenerate", body),
        without_stop=body.stop == [],
    )
    return await _send_command(request, session_id_of(request), command)


async def _send_command(request: web.Request, session_id: str, command: PostMessage | Regenerate) -> RequestedReply:
    require_accepting(request)
    answer = await request.app[SERVICES].supervisor.ask(
        session_id, command, request[CALLER], if_versions=if_match(request)
    )
    if answer.reply is None:
        raise RuntimeError("a command that requests a reply was answered without one")
    return RequestedReply(session_id, answer.reply, answer.request_version or answer.reply.posted_version)
