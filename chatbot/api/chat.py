"""Chat: a message in, a reply out, whole or as a stream of frames."""

from aiohttp import web

from chatbot.api import frames
from chatbot.api.answer import json_answer
from chatbot.api.bodies import ChatBody, canonical_id, check_chat, if_match, parameters_of, read_body
from chatbot.api.event_stream import EventStream
from chatbot.api.middleware import ASKER
from chatbot.api.problems import CAUSE_UNKNOWN, CAUSES, Problem
from chatbot.api.services import SERVICES
from chatbot.api.views import chat_view, timestamp
from chatbot.sessions.commands import PostMessage
from chatbot.sessions.errors import Draining
from chatbot.sessions.reply import Outcome, Reply
from events.errors import LogUnavailable

TITLES = {"cancelled": "Reply cancelled", "interrupted": "Reply interrupted"}
routes = web.RouteTableDef()


@routes.post("/api/chat")
async def chat(request: web.Request) -> web.Response:
    session_id, reply = await _post(request, whole=True)
    outcome = await reply.wait_end()
    if outcome.status in ("complete", "cancelled"):
        return json_answer(chat_view(session_id, reply, outcome))
    status, title = CAUSES.get(outcome.cause, CAUSE_UNKNOWN)
    ids = {"message_id": reply.reply_id, "user_message_id": reply.message_id, "version": outcome.version}
    raise Problem(status, outcome.cause.replace("_", "-"), title, _detail(outcome), partial=outcome.content, **ids)


@routes.post("/api/chat/stream")
async def chat_stream(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    session_id, reply = await _post(request, whole=False)
    settings = services.settings.stream
    stream = await EventStream.open(request, ping_s=settings.sse_ping_s, write_timeout_s=settings.write_timeout_s)
    with services.metrics.open_stream():
        try:
            await _write_reply(stream, session_id, reply)
            await stream.close()
        except ConnectionError as error:
            # The reader has left. The reply goes on, and the history will have all of it.
            services.logger.debug("stream.left", reason=type(error).__name__)
        finally:
            stream.release()
    return stream.response


async def _post(request: web.Request, *, whole: bool) -> tuple[str, Reply]:
    """Have the message recorded. Raises what read_body, check_chat and the session raise."""
    services = request.app[SERVICES]
    body = await read_body(request, ChatBody, services.settings.server.body_timeout_s)
    check_chat(body, services.settings)
    if services.supervisor.draining:
        raise Draining("the service is shutting down")
    session_id = canonical_id(body.session_id) or body.session_id
    command = PostMessage(
        message_id=services.new_id(),
        reply_id=services.new_id(),
        content=body.message,
        parameters=parameters_of(body, services.settings),
        parent_id=body.parent_id,
        on_busy=body.on_busy,
        whole=whole,
    )
    answer = await services.supervisor.ask(session_id, command, request[ASKER], if_version=if_match(request))
    if answer.reply is None:
        raise RuntimeError("a posted message always has a reply")
    return session_id, answer.reply


async def _write_reply(stream: EventStream, session_id: str, reply: Reply) -> None:
    """One reader: take all that is new as one frame, wait for the socket, look again."""
    version = reply.version or reply.posted_version
    start = frames.Start(session_id, reply.reply_id, reply.message_id, version, reply.model)
    await stream.send(frames.encode(start, version, 0))
    offset = 0
    while True:
        try:
            await reply.wait_past(offset)
        except LogUnavailable:
            detail = "the reply's end cannot be recorded just now; read the history for how it ended"
            failure = frames.Error("unrecorded", "Cannot record just now", detail, detail)
            await stream.send(frames.encode(failure, reply.version or version, offset) + frames.DONE)
            return
        outcome = reply.outcome
        if reply.length > offset:
            piece, offset = reply.since(offset), reply.length
            await stream.send(frames.encode(frames.Chunk(piece), reply.version or version, offset))
        if outcome is not None:
            await stream.send(_last_frame(reply, outcome) + frames.DONE)
            return


def _last_frame(reply: Reply, outcome: Outcome) -> bytes:
    if outcome.status == "complete":
        complete = frames.Complete(
            message_id=reply.reply_id,
            full_response=outcome.content,
            finish_reason=outcome.finish_reason,
            token_usage=outcome.usage,
            created_at=timestamp(outcome.created_at_us),
            version=outcome.version,
        )
        return frames.encode(complete, outcome.version, 0)
    title = TITLES.get(outcome.status) or CAUSES.get(outcome.cause, CAUSE_UNKNOWN)[1]
    detail = _detail(outcome)
    return frames.encode(frames.Error(outcome.status, title, detail, detail), outcome.version, 0)


def _detail(outcome: Outcome) -> str:
    """A sentence for the client."""
    if outcome.cause == "llm_unavailable":
        return "LLM server not available"
    if outcome.detail:
        return outcome.detail
    return {
        "shutdown": "the service was shut down while it replied",
        "crash": "the service stopped while it replied",
        "client": "cancelled at the client's request",
        "deleted": "the session was deleted",
        "superseded": "a newer message took its place",
    }.get(outcome.cause, outcome.cause)
