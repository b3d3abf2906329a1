"""Chat: a message in, a reply out, whole or as a stream of frames."""

from aiohttp import web
from msgspec import Struct

from chatbot.api.answer import json_answer, session_id_of
from chatbot.api.bodies import ChatBody, RegenerateBody, canonical_id, read_body
from chatbot.api.conditions import if_match, once_of, prefers_async
from chatbot.api.cursors import Cursor, last_event_id
from chatbot.api.endings import detail_of
from chatbot.api.event_stream import answer_stream
from chatbot.api.middleware import ASKER
from chatbot.api.path_prefix import prefix_of
from chatbot.api.problems import CAUSE_UNKNOWN, CAUSES, Problem
from chatbot.api.reply_bodies import check_chat, check_tokens, parameters_of
from chatbot.api.reply_stream import ReplyWriter
from chatbot.api.services import SERVICES
from chatbot.api.views import AcceptedView, chat_view
from chatbot.sessions.commands import PostMessage, Regenerate
from chatbot.sessions.errors import Draining
from chatbot.sessions.following import Place
from chatbot.sessions.recorded_text import recorded_offset
from chatbot.sessions.reply import Reply

routes = web.RouteTableDef()


class Asked(Struct, frozen=True):
    """A reply that was asked for. `version` is that of the event that records the request."""

    session_id: str
    reply: Reply
    version: int


@routes.post("/api/chat")
async def chat(request: web.Request) -> web.Response:
    if prefers_async(request):
        return _accepted(request, await _post(request, whole=False))
    return await _whole(await _post(request, whole=True))


@routes.post("/api/chat/stream")
async def chat_stream(request: web.Request) -> web.StreamResponse:
    if prefers_async(request):
        return _accepted(request, await _post(request, whole=False))
    services, after = request.app[SERVICES], _resumed_after(request)
    with services.streams.another():
        return await _streamed(request, await _post(request, whole=False), after)


@routes.post("/api/sessions/{session_id}/regenerate")
async def regenerate(request: web.Request) -> web.StreamResponse:
    """As chat, or as chat_stream for a client that accepts an event stream."""
    if prefers_async(request):
        return _accepted(request, await _regenerate(request, whole=False))
    if "text/event-stream" not in request.headers.get("Accept", ""):
        return await _whole(await _regenerate(request, whole=True))
    services, after = request.app[SERVICES], _resumed_after(request)
    with services.streams.another():
        return await _streamed(request, await _regenerate(request, whole=False), after)


async def _whole(asked: Asked) -> web.Response:
    reply = asked.reply
    outcome = await reply.wait_end()
    if outcome.status in ("complete", "cancelled"):
        return json_answer(chat_view(asked.session_id, reply, outcome))
    status, title = CAUSES.get(outcome.cause, CAUSE_UNKNOWN)
    ids = {"message_id": reply.reply_id, "user_message_id": reply.message_id, "version": outcome.version}
    raise Problem(status, outcome.cause.replace("_", "-"), title, detail_of(outcome), partial=outcome.content, **ids)


def _accepted(request: web.Request, asked: Asked) -> web.Response:
    """Where to follow the reply. The same for every repetition of the request, whatever has become of the reply."""
    cursor = str(asked.version)
    view = AcceptedView(
        session_id=asked.session_id,
        message_id=asked.reply.reply_id,
        user_message_id=asked.reply.message_id,
        version=asked.version,
        cursor=cursor,
    )
    feed = f"{prefix_of(request)}/api/sessions/{asked.session_id}/stream?after={cursor}"
    return json_answer(view, status=202, headers={"Location": feed, "Preference-Applied": "respond-async"})


def _resumed_after(request: web.Request) -> Cursor | None:
    """The last frame that the client has of this very reply: only a repeated request has any. Raises BodyFault."""
    cursor = last_event_id(request)
    return cursor if "Idempotency-Key" in request.headers else None


async def _streamed(request: web.Request, asked: Asked, after: Cursor | None) -> web.StreamResponse:
    """A reader that leaves does not stop the reply, and the history will have all of it."""
    services, place = request.app[SERVICES], None
    if after is not None:
        offset = after.offset
        if offset is None:
            offset = await recorded_offset(services.log, asked.session_id, after.version)
        place = Place(after.version, offset)
    return await answer_stream(request, ReplyWriter(services, asked.session_id, asked.reply, place).write)


async def _post(request: web.Request, *, whole: bool) -> Asked:
    """Have the message recorded. Raises what read_body, check_chat and the session raise."""
    services = request.app[SERVICES]
    body = await read_body(request, ChatBody, services.settings.server.body_timeout_s)
    check_chat(body, services.settings)
    session_id = canonical_id(body.session_id) or body.session_id
    command = PostMessage(
        message_id=services.new_id(),
        reply_id=services.new_id(),
        content=body.message,
        parameters=parameters_of(body),
        parent_id=body.parent_id,
        on_busy=body.on_busy,
        whole=whole,
        once=once_of(request, "chat", body),
        without_stop=body.stop == [],
    )
    return await _ask(request, session_id, command)


async def _regenerate(request: web.Request, *, whole: bool) -> Asked:
    """Have another reply to a message asked for. Raises what read_body and the session raise."""
    services = request.app[SERVICES]
    timeout_s = services.settings.server.body_timeout_s
    body = await read_body(request, RegenerateBody, timeout_s, optional=True)
    check_tokens(body.max_new_tokens, "$.max_new_tokens", services.settings)
    command = Regenerate(
        reply_id=services.new_id(),
        message_id=body.message_id,
        parameters=parameters_of(body),
        on_busy=body.on_busy,
        whole=whole,
        once=once_of(request, "regenerate", body),
        without_stop=body.stop == [],
    )
    return await _ask(request, session_id_of(request), command)


async def _ask(request: web.Request, session_id: str, command: PostMessage | Regenerate) -> Asked:
    supervisor = request.app[SERVICES].supervisor
    if supervisor.draining:
        raise Draining("the service is shutting down")
    answer = await supervisor.ask(session_id, command, request[ASKER], if_versions=if_match(request))
    if answer.reply is None:
        raise RuntimeError("what asks for a reply always gets one")
    return Asked(session_id, answer.reply, answer.asked_version or answer.reply.posted_version)
