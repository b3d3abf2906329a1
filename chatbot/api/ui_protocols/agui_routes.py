"""AG-UI: POST /api/agui runs the model on a thread, or tells the thread's history."""

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.json_checks import check_tools
from chatbot.api.media.sent_images import keep_sent_files
from chatbot.api.middleware import require_accepting
from chatbot.api.problems import RequestFault
from chatbot.api.requests import decode_body, read_raw
from chatbot.api.services import SERVICES
from chatbot.api.streaming.reply_writer import ReplyWriter
from chatbot.api.streaming.response_stream import HEADERS, STREAMS, ResponseStream, stream_response
from chatbot.api.ui_protocols.agui_bodies import RunAgentInput
from chatbot.api.ui_protocols.agui_event_view import AguiEventView, Run, agui_event
from chatbot.api.ui_protocols.agui_messages import (
    agent_messages,
    context_message,
    is_answerable,
    openai_tools,
    sent_files,
    sent_messages,
)
from chatbot.api.ui_protocols.named_requests import (
    NamedTranscript,
    check_count,
    check_messages,
    conversation_name,
    find_session,
    own_file_url,
    request_reply,
)
from chatbot.api.ui_protocols.sent_messages import checked_text
from chatbot.api.v1.conversation_names import checked_name
from chatbot.api.v1.request_checks import end_user_of_request
from chatbot.api.v1.transcript_checks import check_fields
from chatbot.sessions.domain.rejections import SessionNotFound
from events.catalogue import ConversationName, Parameters

SOURCE = "agui.threadId"  # under which the log has the names of these conversations
HISTORY_MAX = 1_000  # messages of one snapshot, the newest ones
NO_RESUME = "is not supported: runs are never interrupted to ask a person"

routes = web.RouteTableDef()


@routes.post("/api/agui")
async def agui(request: web.Request) -> web.StreamResponse:
    """Without a message to reply to, the run consists of the thread's history. The same run once more, with the same
    messages, is the same reply.
    """
    services = request.app[SERVICES]
    settings = services.settings
    raw = await read_raw(request, settings.v1.body_max_bytes, settings.server.body_timeout_s)
    check_fields(raw, "messages")
    body = decode_body(raw, RunAgentInput)
    del raw  # it may have megabytes, which are in the body once more
    if body.resume:
        raise RequestFault(NO_RESUME, "$.resume", kind="unsupported", status=422, title="Not supported")
    check_count("messages", body.messages, settings.v1.messages_max)
    check_count("tools", body.tools or (), settings.chat.tools_max)
    if body.messages:
        require_accepting(request)
    name = conversation_name(SOURCE, body.thread_id, "$.threadId")
    run_id, tools = checked_text(body.run_id, "$.runId"), openai_tools(body.tools or ())
    if tools is not None:
        check_tools(tools, settings.chat)
    run = Run(body.thread_id, run_id, body.parent_run_id)
    messages = sent_messages(body.messages, await keep_sent_files(request, sent_files(body.messages)))
    check_messages(messages, settings.v1.messages_max, settings.v1.message_max_chars)
    if not is_answerable(messages):
        return await _stream_history(request, run, name)
    context = context_message(body.context or ())
    last = body.messages[messages[-1].index]
    transcript = NamedTranscript(
        name=name,
        end_user=end_user_of_request(request),
        messages=[*([] if context is None else [context]), *messages],
        parameters=Parameters(tools=tools),
        client_id=checked_name(last.id, "$.messages") or None if messages[-1].message.role == "user" else None,
        run_id=run_id,
    )
    del body, messages
    with request.app[STREAMS].limit.acquire(request[CALLER].owner):
        requested = await request_reply(request, transcript)
        del transcript
        session_id, reply = requested.session_id, requested.reply
        view = AguiEventView(run, reply.reply_id)
        scheduler, running = request.app[STREAMS].flush_scheduler, services.supervisor.running_reply
        writer = ReplyWriter(scheduler, session_id, reply, running, view)
        return await stream_response(request, writer.write, headers=_headers(session_id))


async def _stream_history(request: web.Request, run: Run, name: ConversationName) -> web.StreamResponse:
    """A thread that does not exist yet has no messages."""
    services = request.app[SERVICES]
    try:
        session_id: str | None = (await find_session(request, name, end_user_of_request(request), "history")).session_id
    except SessionNotFound:
        session_id = None
    messages = []
    if session_id is not None:
        history = await services.session_queries.history(session_id, None, HISTORY_MAX, None)
        messages = list(history.messages)
        async for more in services.session_queries.remaining_messages(history):
            messages += more
    shown = agent_messages(messages, lambda sha256: own_file_url(request, session_id or "", sha256))
    snapshot = agui_event("MESSAGES_SNAPSHOT", messages=shown)

    async def write(stream: ResponseStream) -> None:
        await stream.send(run.started() + snapshot + run.finished("success"))

    with request.app[STREAMS].limit.acquire(request[CALLER].owner):
        return await stream_response(request, write, headers=_headers(session_id))


def _headers(session_id: str | None) -> dict[str, str]:
    return {**HEADERS, **({} if session_id is None else {"X-Session-Id": session_id})}
