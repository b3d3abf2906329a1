"""The operations of protocols of user interfaces: Vercel's AI SDK and AG-UI."""

from typing import Any

from chatbot.api.openapi.schemas import SSE, Kind, Operation, ResponseSpec
from chatbot.api.ui_protocols.agui_bodies import AguiEvent, RunAgentInput
from chatbot.api.ui_protocols.ui_message_bodies import UiChatBody, UiChunk, UiMessage, UiMessages, UiPart

_SESSION = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
_REPLY, _QUESTION = "c4a1e2d7-2f60-4c58-8b0e-7e9d6b5a4f33", "8a7d2c10-6b1f-4f0e-9c53-1f2e3d4c5b6a"
_SAID, _ANSWERED = "안녕하세요!", "안녕하세요! 무엇을 도와드릴까요?"
_BODY = (400, 408, 413, 415, 422)
_STREAMED = (*_BODY, 404, 409, 429, 503)
_CHAT = """What `DefaultChatTransport` of Vercel's AI SDK sends, with `api` set to this path. `id` names the
conversation: a session's id, or any name; the messages are compared with its own, what is new is added to it, and the
same messages again make another reply. The first chunk has the ids of session and reply in `messageMetadata`. The reply
goes on when the client leaves; POST /api/sessions/{session_id}/cancel stops it, which the stream says by `abort`.
"""
_RESUME = """What `reconnectToStream` and `resume: true` call: the running reply from its start, under the id that the
message had before, so that the client replaces it.
"""
_READ = """The newest messages of the selected branch, as the AI SDK has them, for `messages` of `useChat`. Replies and
the results of tools between them are one message.
"""
_AGUI = """`threadId` names the conversation: a session's id, or any name; the messages are compared with its own, and
what is new is added to it. The same `runId` with the same messages is the same reply. If the last message is none that
a reply follows (or there is none), the run has the history as `MESSAGES_SNAPSHOT`. A reply that was cancelled ends with
the outcome `cancelled`. `tools` are the client's: their calls end the run, and their results begin the next one.
`state` and `forwardedProps` are not read.
"""

UI = (
    Operation(
        "POST", "/api/ui/chat", "ui_chat", "A reply as a UI message stream of Vercel's AI SDK",
        {200: ResponseSpec("One chunk in each `data:` line, then `[DONE]`.", UiChunk, (SSE,), ("X-Session-Id",))},
        details=_CHAT, body=UiChatBody, problems=_STREAMED,
    ),
    Operation(
        "GET", "/api/ui/chat/{chat_id}", "read_ui_chat", "The messages of a chat of Vercel's AI SDK",
        {200: ResponseSpec("The chat.", UiMessages, headers=("X-Session-Id",))},
        details=_READ, problems=(404, 422, 503),
    ),
    Operation(
        "GET", "/api/ui/chat/{chat_id}/stream", "resume_ui_chat", "The running reply of a chat, from its start",
        {
            200: ResponseSpec("As POST /api/ui/chat.", UiChunk, (SSE,), ("X-Session-Id",)),
            204: ResponseSpec("No reply runs.", None),
        },
        details=_RESUME, problems=(422, 429, 503),
    ),
    Operation(
        "POST", "/api/agui", "agui", "A run of AG-UI",
        {200: ResponseSpec("One event in each `data:` line.", AguiEvent, (SSE,), ("X-Session-Id",))},
        details=_AGUI, body=RunAgentInput, problems=_STREAMED,
    ),
)  # fmt: skip
_question = UiMessage(id=_QUESTION, role="user", parts=[UiPart(type="text", text=_SAID)])
_reply = UiMessage(
    id=_REPLY, role="assistant", parts=[UiPart(type="step-start"), UiPart(type="text", text=_ANSWERED, state="done")]
)
_sent = {"id": _QUESTION, "role": "user", "parts": [{"type": "text", "text": _SAID}]}
EXAMPLES: dict[Kind, dict[str, Any]] = {
    UiChatBody: {"submit": {"id": "my-chat", "messages": [_sent], "trigger": "submit-message"}},
    UiMessages: {"chat": UiMessages("my-chat", _SESSION, [_question, _reply])},
    UiChunk: {
        "start": UiChunk(type="start", message_id=_REPLY, message_metadata={"session_id": _SESSION}),
        "text": UiChunk(type="text-delta", id="0", delta=_ANSWERED),
        "finish": UiChunk(type="finish", finish_reason="stop"),
    },
    AguiEvent: {
        "started": AguiEvent(type="RUN_STARTED", thread_id="my-thread", run_id="run-1", protocol_version="1.0"),
        "text": AguiEvent(type="TEXT_MESSAGE_CONTENT", message_id=_REPLY, delta=_ANSWERED),
        "finished": AguiEvent(type="RUN_FINISHED", thread_id="my-thread", run_id="run-1", outcome={"type": "success"}),
    },
    RunAgentInput: {
        "run": {
            "threadId": "my-thread",
            "runId": "run-1",
            "tools": [],
            "context": [],
            "messages": [{"id": _QUESTION, "role": "user", "content": _SAID}],
        },
        "history": {"threadId": "my-thread", "runId": "run-2", "messages": []},
    },
}
