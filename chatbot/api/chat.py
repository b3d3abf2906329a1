"""Chat: a message in, a reply out, whole or as a stream of frames."""

from aiohttp import web

from chatbot.api import frames
from chatbot.api.answer import json_answer, session_id_of
from chatbot.api.bodies import (
    ChatBody,
    RegenerateBody,
    canonical_id,
    check_chat,
    check_reply,
    parameters_of,
    read_body,
)
from chatbot.api.conditions import if_match, once_of
from chatbot.api.endings import detail_of, last_frame
from chatbot.api.event_stream import EventStream, answer_stream
from chatbot.api.middleware import ASKER
from chatbot.api.problems import CAUSE_UNKNOWN, CAUSES, Problem
from chatbot.api.services import SERVICES, Services
from chatbot.api.views import chat_view
from chatbot.sessions.commands import PostMessage, Regenerate
from chatbot.sessions.errors import Draining
from chatbot.sessions.reply import Outcome, Reply

routes = web.RouteTableDef()


@routes.post("/api/chat")
async def chat(request: web.Request) -> web.Response:
    return await _whole(*await _post(request, whole=True))


@routes.post("/api/chat/stream")
async def chat_stream(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    with services.streams.another():
        return await _streamed(request, *await _post(request, whole=False))


@routes.post("/api/sessions/{session_id}/regenerate")
async def regenerate(request: web.Request) -> web.StreamResponse:
    """As chat, or as chat_stream for a client that accepts an event stream."""
    services = request.app[SERVICES]
    if "text/event-stream" not in request.headers.get("Accept", ""):
        return await _whole(*await _regenerate(request, whole=True))
    with services.streams.another():
        return await _streamed(request, *await _regenerate(request, whole=False))


async def _whole(session_id: str, reply: Reply) -> web.Response:
    outcome = await reply.wait_end()
    if outcome.status in ("complete", "cancelled"):
        return json_answer(chat_view(session_id, reply, outcome))
    status, title = CAUSES.get(outcome.cause, CAUSE_UNKNOWN)
    ids = {"message_id": reply.reply_id, "user_message_id": reply.message_id, "version": outcome.version}
    raise Problem(status, outcome.cause.replace("_", "-"), title, detail_of(outcome), partial=outcome.content, **ids)


async def _streamed(request: web.Request, session_id: str, reply: Reply) -> web.StreamResponse:
    """A reader that leaves does not stop the reply, and the history will have all of it."""
    return await answer_stream(request, _Writer(request.app[SERVICES], session_id, reply).write)


async def _post(request: web.Request, *, whole: bool) -> tuple[str, Reply]:
    """Have the message recorded. Raises what read_body, check_chat and the session raise."""
    services = request.app[SERVICES]
    body = await read_body(request, ChatBody, services.settings.server.body_timeout_s)
    check_chat(body, services.settings)
    session_id = canonical_id(body.session_id) or body.session_id
    command = PostMessage(
        message_id=services.new_id(),
        reply_id=services.new_id(),
        content=body.message,
        parameters=parameters_of(body, services.settings),
        parent_id=body.parent_id,
        on_busy=body.on_busy,
        whole=whole,
        once=once_of(request, "chat", body),
    )
    return session_id, await _ask(request, session_id, command)


async def _regenerate(request: web.Request, *, whole: bool) -> tuple[str, Reply]:
    """Have another reply to a message asked for. Raises what read_body and the session raise."""
    services = request.app[SERVICES]
    timeout_s = services.settings.server.body_timeout_s
    body = await read_body(request, RegenerateBody, timeout_s, optional=True)
    check_reply(body, services.settings)
    command = Regenerate(
        reply_id=services.new_id(),
        message_id=body.message_id,
        parameters=parameters_of(body, services.settings),
        on_busy=body.on_busy,
        whole=whole,
        once=once_of(request, "regenerate", body),
    )
    session_id = session_id_of(request)
    return session_id, await _ask(request, session_id, command)


async def _ask(request: web.Request, session_id: str, command: PostMessage | Regenerate) -> Reply:
    supervisor = request.app[SERVICES].supervisor
    if supervisor.draining:
        raise Draining("the service is shutting down")
    answer = await supervisor.ask(session_id, command, request[ASKER], if_versions=if_match(request))
    if answer.reply is None:
        raise RuntimeError("what asks for a reply always gets one")
    return answer.reply


class _Writer:
    """One reader of one reply: all that is new goes out as one frame, whenever there is something and the socket has
    room."""

    def __init__(self, services: Services, session_id: str, reply: Reply) -> None:
        self._session_id = session_id
        self._reply = reply
        self._retry_ms = services.settings.stream.retry_ms
        self._supervisor = services.supervisor
        self._pourer = services.pourer
        self._version = reply.version or reply.posted_version
        self._ahead = self._length_ahead(self._version)
        self._offset = 0

    async def write(self, stream: EventStream) -> None:
        reply = self._reply
        start = frames.Start(self._session_id, reply.reply_id, reply.message_id, self._version, reply.model)
        await stream.send(frames.encode(start, self._version, self._ahead))
        await self._pourer.pour(stream, self._look, reply.bell)
        last = self._unrecorded(reply.length) if reply.outcome is None else self._last(reply.outcome)
        await stream.close(self._news() + last + frames.DONE)

    def _look(self) -> bytes | None:
        """All that is new; None once the reply's end is known."""
        reply = self._reply
        return self._news() if reply.outcome is None and reply.unrecorded is None else None

    def _news(self) -> bytes:
        reply, offset = self._reply, self._offset
        if reply.length <= offset:
            return b""
        self._offset = reply.length
        return frames.encode(frames.Chunk(reply.since(offset)), reply.version or self._version, self._offset)

    def _length_ahead(self, version: int) -> int:
        """What is written of the reply ahead of this one, if it was open at `version`: a feed need not repeat that."""
        running = self._supervisor.running_reply(self._session_id)
        is_ahead = running is not None and not self._reply.version and running.version <= version
        return running.length if running is not None and is_ahead else 0

    def _unrecorded(self, offset: int) -> bytes:
        detail = "the reply's end cannot be recorded just now; follow the session for how it ended"
        version = self._reply.version or self._version
        status, title = "unrecorded", "Cannot record just now"
        failure = frames.Error(status, title, detail, detail, self._reply.reply_id, version, offset)
        return frames.encode(failure, version, offset + self._length_ahead(version))  # one of them is 0

    def _last(self, outcome: Outcome) -> bytes:
        frame = last_frame(self._reply.reply_id, outcome)
        retry_ms = self._retry_ms if outcome.cause == "shutdown" else None
        return frames.encode(frame, outcome.version, self._length_ahead(outcome.version), retry_ms=retry_ms)
