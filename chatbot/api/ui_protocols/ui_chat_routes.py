"""The API of Vercel's AI SDK under /api/ui/chat: what DefaultChatTransport calls, and the messages of a chat."""

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.media.sent_images import keep_sent_files
from chatbot.api.middleware import require_accepting
from chatbot.api.request_queries import check_query
from chatbot.api.requests import check_reply, decode_body, parameters_of, read_raw
from chatbot.api.responses import json_response
from chatbot.api.services import SERVICES
from chatbot.api.streaming.reply_writer import ReplyWriter
from chatbot.api.streaming.response_stream import STREAMS, stream_response
from chatbot.api.ui_protocols.named_requests import (
    NamedTranscript,
    check_count,
    check_messages,
    conversation_name,
    find_session,
    own_file_url,
    request_reply,
)
from chatbot.api.ui_protocols.ui_chunk_view import UI_STREAM_HEADERS, UiChunkView
from chatbot.api.ui_protocols.ui_message_bodies import UiChatBody, UiMessage, UiMessages
from chatbot.api.ui_protocols.ui_messages import sent_files, sent_messages, ui_messages
from chatbot.api.v1.conversation_names import checked_name
from chatbot.api.v1.request_checks import end_user_of_request
from chatbot.api.v1.transcript_checks import check_fields
from chatbot.sessions.domain.rejections import SessionNotFound
from chatbot.sessions.replies.reply import Reply

SOURCE = "ui.id"  # under which the log has the names of these conversations
HISTORY_MAX = 1_000  # messages of one answer, the newest ones: what a page shows at first

routes = web.RouteTableDef()


@routes.post("/api/ui/chat")
async def ui_chat(request: web.Request) -> web.StreamResponse:
    """A reader that leaves does not stop the reply: the SDK's `resume` continues with it."""
    settings = request.app[SERVICES].settings
    raw = await read_raw(request, settings.v1.body_max_bytes, settings.server.body_timeout_s)
    check_fields(raw, "messages")
    body = decode_body(raw, UiChatBody)
    del raw  # it may have megabytes, which are in the body once more
    check_count("messages", body.messages, settings.v1.messages_max)
    check_reply(body, settings)
    require_accepting(request)
    name = conversation_name(SOURCE, body.id, "$.id")
    files = await keep_sent_files(request, sent_files(body.messages))
    messages = sent_messages(body.messages, files)
    check_messages(messages, settings.v1.messages_max, settings.v1.message_max_chars)
    last = body.messages[-1]
    transcript = NamedTranscript(
        name=name,
        end_user=end_user_of_request(request),
        messages=messages,
        parameters=parameters_of(body),
        client_id=checked_name(last.id, f"$.messages[{len(body.messages) - 1}].id") if last.role == "user" else None,
        on_busy=body.on_busy,
        without_stop=body.stop == [],
    )
    continued_id = last.id if last.role == "assistant" else None  # it has the results of tools: the reply continues it
    del body, files
    with request.app[STREAMS].limit.acquire(request[CALLER].owner):
        requested = await request_reply(request, transcript)
        del transcript, messages
        session_id, reply = requested.session_id, requested.reply
        view = UiChunkView(continued_id or reply.reply_id, _metadata(session_id, reply))
        return await _stream_reply(request, session_id, reply, view)


@routes.get("/api/ui/chat/{chat_id}/stream", allow_head=False)
async def resume_ui_chat(request: web.Request) -> web.StreamResponse:
    """The running reply from its start; 204 if none runs or waits, also of a chat that does not exist yet."""
    check_query(request, frozenset())
    services = request.app[SERVICES]
    with request.app[STREAMS].limit.acquire(request[CALLER].owner):
        name = conversation_name(SOURCE, request.match_info["chat_id"], "path.chat_id")
        try:
            session = await find_session(request, name, end_user_of_request(request), "feed")
        except SessionNotFound:
            return web.Response(status=204)
        reply = await services.cluster.watch(session) or services.supervisor.running_reply(session.session_id)
        waiting = services.supervisor.replies(session.session_id).values()
        reply = reply or next(iter(waiting), None)
        if reply is None or reply.outcome is not None:
            return web.Response(status=204)
        session_id, earlier = session.session_id, await _earlier_steps(request, session.session_id, reply)
        message_id = reply.reply_id if earlier is None else earlier.id
        view = UiChunkView(message_id, _metadata(session_id, reply), () if earlier is None else earlier.parts)
        return await _stream_reply(request, session_id, reply, view)


@routes.get("/api/ui/chat/{chat_id}", allow_head=False)
async def read_ui_chat(request: web.Request) -> web.Response:
    """The messages of the selected branch, for `messages` of useChat."""
    check_query(request, frozenset())
    chat_id = request.match_info["chat_id"]
    name = conversation_name(SOURCE, chat_id, "path.chat_id")
    session = await find_session(request, name, end_user_of_request(request), "history")
    session_id = session.session_id
    shown = await _read_messages(request, session_id)
    return json_response(UiMessages(chat_id, session_id, shown), headers={"X-Session-Id": session_id})


async def _read_messages(request: web.Request, session_id: str, leaf: str | None = None) -> list[UiMessage]:
    """The newest messages of the branch that ends in `leaf`, by default the selected one."""
    queries = request.app[SERVICES].session_queries
    history = await queries.history(session_id, leaf, HISTORY_MAX, None)
    messages = list(history.messages)
    async for more in queries.remaining_messages(history):
        messages += more
    return ui_messages(messages, lambda sha256: own_file_url(request, session_id, sha256))


async def _earlier_steps(request: web.Request, session_id: str, reply: Reply) -> UiMessage | None:
    """The assistant's message that `reply` continues, as it follows results of tools; None if it begins one."""
    shown = await _read_messages(request, session_id, reply.message_id)
    return shown[-1] if shown and shown[-1].role == "assistant" else None


def _metadata(session_id: str, reply: Reply) -> dict[str, str]:
    """With these, clients reach the reply through the rest of the API: to cancel it, for one."""
    return {"session_id": session_id, "reply_id": reply.reply_id, "user_message_id": reply.message_id}


async def _stream_reply(request: web.Request, session_id: str, reply: Reply, view: UiChunkView) -> web.StreamResponse:
    streams, supervisor = request.app[STREAMS], request.app[SERVICES].supervisor
    writer = ReplyWriter(streams.flush_scheduler, session_id, reply, supervisor.running_reply, view)
    return await stream_response(request, writer.write, headers={**UI_STREAM_HEADERS, "X-Session-Id": session_id})
