"""Messages of AG-UI as those of a transcript, and a session's messages as AG-UI's. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

from msgspec import Struct

from chatbot.api.message_parts import SentFile
from chatbot.api.problems import RequestFault
from chatbot.api.ui_protocols.agui_bodies import (
    ActivityMessage,
    AgentMessage,
    AgentTool,
    AguiAssistantMessage,
    AguiDeveloperMessage,
    AguiSystemMessage,
    AguiToolMessage,
    AguiUserMessage,
    Content,
    ContentPart,
    ContextEntry,
    ReasoningMessage,
)
from chatbot.api.ui_protocols.sent_messages import SentMessage, checked_text
from chatbot.sessions.domain.model_request import REDACTED_TEXT
from chatbot.sessions.domain.transcript import TranscriptMessage
from chatbot.sessions.session_queries import MessageWithText
from events.schema.parts import Media, Part, Parts, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult, parts_of

NO_FILES = "is not supported: messages may have text and images"


def sent_files(messages: Sequence[AgentMessage]) -> list[SentFile]:
    """The images of the messages. Raises RequestFault for other files."""
    found: list[SentFile] = []
    for number, message in enumerate(messages):
        content = message.content if isinstance(message, AguiUserMessage | AguiToolMessage) else ""
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if part.type != "text":
                path = f"$.messages[{number}].content[{index}]"
                found.append(SentFile(path, _url_of(part, path)))
    return found


def _url_of(part: ContentPart, path: str) -> str:
    if part.type == "image" and part.source is not None:
        source = part.source
        return f"data:{source.mime_type or ''};base64,{source.value}" if source.type == "data" else source.value
    if part.type == "binary" and (part.mime_type or "").startswith("image/"):
        return f"data:{part.mime_type};base64,{part.data}" if part.data else part.url or ""
    raise RequestFault(NO_FILES, f"{path}.type")


def sent_messages(messages: Sequence[AgentMessage], files: Mapping[str, Media]) -> list[SentMessage]:
    """The messages of the transcript; reasoning belongs to the assistant's message after it. `files` are those of
    `sent_files`, by path. Raises RequestFault.
    """
    found: list[SentMessage] = []
    thought: list[Part] = []
    reply = _SentReply("", [], 0)
    for number, message in enumerate(messages):
        path = f"$.messages[{number}]"
        if not isinstance(message, AguiAssistantMessage | ReasoningMessage | ActivityMessage):
            reply = reply.finish(found)
        match message:
            case AguiSystemMessage() | AguiDeveloperMessage():
                found.append(SentMessage(TranscriptMessage("system", _content(message.content, path, files)), number))
            case AguiUserMessage():
                found.append(SentMessage(TranscriptMessage("user", _content(message.content, path, files)), number))
            case AguiToolMessage():
                found.append(SentMessage(TranscriptMessage("tool", (_result(message, path, files),)), number))
            case ReasoningMessage():
                if message.content:
                    thought.append(Reasoning(checked_text(message.content, f"{path}.content")))
            case AguiAssistantMessage():
                if not _is_continued(reply.reply_id, message.id):
                    reply.finish(found)
                    reply = _SentReply(message.id, [], number)
                reply.parts += [*thought, *_reply_parts(message, path, files)]
                thought = []
            case ActivityMessage():
                pass
            case _:
                assert_never(message)
    reply.finish(found)
    return found


class _SentReply(Struct):
    """The parts of a reply whose messages are being read, from the request's message `number` on."""

    reply_id: str
    parts: list[Part]
    number: int

    def finish(self, found: list[SentMessage]) -> "_SentReply":
        """Add the reply, if there is one, to `found`. Returns that there is none."""
        if self.reply_id:
            found.append(SentMessage(TranscriptMessage("assistant", tuple(self.parts)), self.number))
        return _SentReply("", [], 0)


def _is_continued(reply_id: str, message_id: str) -> bool:
    """Whether a message is a later text of the reply: see part_message_id."""
    beginning, _, part = message_id.rpartition("-")
    return bool(reply_id) and beginning == reply_id and part.isdecimal()


def part_message_id(reply_id: str, part: int) -> str:
    """The id of a thought, or of a text after the first one, which has the reply's own id."""
    return f"{reply_id}-{part}"


def _content(content: Content | None, path: str, files: Mapping[str, Media]) -> Parts:
    if isinstance(content, str) or content is None:
        return (Text(checked_text(content, f"{path}.content")),) if content else ()
    parts: list[Part] = []
    for index, part in enumerate(content):
        at = f"{path}.content[{index}]"
        if part.type != "text":
            parts.append(files[at])
        elif part.text:
            parts.append(Text(checked_text(part.text, f"{at}.text")))
    return tuple(parts)


def _result(message: AguiToolMessage, path: str, files: Mapping[str, Media]) -> ToolResult:
    checked_text(message.tool_call_id, f"{path}.toolCallId")
    given = _content(message.content, path, files) or _content(message.error, path, files)
    nested = tuple(part for part in given if isinstance(part, Text | Media))
    return ToolResult(message.tool_call_id, nested, is_error=message.error is not None)


def _reply_parts(message: AguiAssistantMessage, path: str, files: Mapping[str, Media]) -> Parts:
    parts = list(_content(message.content, path, files))
    for index, call in enumerate(message.tool_calls or ()):
        at = f"{path}.toolCalls[{index}]"
        name, arguments = call.function.name, call.function.arguments
        checked_text(call.id, f"{at}.id")
        checked_text(name, f"{at}.function.name")
        parts.append(ToolCall(call.id, name, checked_text(arguments, f"{at}.function.arguments")))
    return tuple(parts)


def context_message(context: Sequence[ContextEntry]) -> SentMessage | None:
    """What the model is told before all else; None if there is nothing."""
    if not context:
        return None
    lines = [
        f"{checked_text(one.description, f'$.context[{index}].description')}:"
        f" {checked_text(one.value, f'$.context[{index}].value')}"
        for index, one in enumerate(context)
    ]
    return SentMessage(TranscriptMessage("system", (Text("\n".join(lines)),)), 0)


def openai_tools(tools: Sequence[AgentTool]) -> list[dict[str, Any]] | None:
    """The client's tools as model servers take them; None if there are none."""
    functions = [{"name": one.name, "description": one.description, "parameters": one.parameters} for one in tools]
    return [
        {"type": "function", "function": {name: value for name, value in one.items() if value is not None}}
        for one in functions
    ] or None


def is_answerable(messages: Sequence[SentMessage]) -> bool:
    """Whether the last message is one that a reply follows."""
    return bool(messages) and messages[-1].message.role in ("user", "tool")


def agent_messages(messages: Sequence[MessageWithText], file_url: Callable[[str], str]) -> list[dict[str, Any]]:
    """A branch's messages for MESSAGES_SNAPSHOT. What does not exist is absent, never null."""
    found: list[dict[str, Any]] = []
    for message in messages:
        row, parts = message.row, parts_of(message)
        if row.role == "tool":
            results = [part for part in parts if isinstance(part, ToolResult)]
            found += [_result_view(one, f"{row.message_id}-{one.call_id}") for one in results]
        elif row.role == "assistant":
            found += _reply_views(row.message_id, parts)
        else:
            role = "system" if row.role == "system" else "user"
            found.append({"id": row.message_id, "role": role, "content": _content_view(parts, file_url)})
    return found


def _result_view(part: ToolResult, message_id: str) -> dict[str, Any]:
    text = "".join(one.text for one in part.parts if isinstance(one, Text))
    view = {"id": message_id, "role": "tool", "toolCallId": part.call_id, "content": text}
    return {**view, "error": text or "the tool has failed"} if part.is_error else view


def _reply_views(reply_id: str, parts: Parts) -> list[dict[str, Any]]:
    """The messages that the stream of the reply makes in a client, in their order."""
    views: list[dict[str, Any]] = []
    reply: dict[str, Any] = {"id": reply_id, "role": "assistant"}
    for number, part in enumerate(parts):
        match part:
            case Redacted(kind="reasoning"):
                pass
            case Reasoning():
                views.append({"id": part_message_id(reply_id, number), "role": "reasoning", "content": part.text})
            case Text() | Refusal() | Redacted():
                view = reply
                if "content" in reply:
                    view = {"id": part_message_id(reply_id, number), "role": "assistant"}
                view["content"] = _words(part)
                views.append(view)
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments}
                call = {"id": part.call_id, "type": "function", "function": function}
                reply.setdefault("toolCalls", []).append(call)
            case ToolResult() | Media():
                pass  # no reply has them
            case _:
                assert_never(part)
    return views if any(one is reply for one in views) else [*views, reply]


def _words(part: Text | Refusal | Redacted) -> str:
    return REDACTED_TEXT.text if isinstance(part, Redacted) else part.text


def _content_view(parts: Parts, file_url: Callable[[str], str]) -> str | list[dict[str, Any]]:
    if not any(isinstance(part, Media) for part in parts):
        return "".join(_words(part) for part in parts if isinstance(part, Text | Redacted))
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Media):
            source = {"type": "url", "value": file_url(part.sha256), "mimeType": part.media_type}
            content.append({"type": "image", "source": source})
        elif isinstance(part, Text | Redacted):
            content.append({"type": "text", "text": _words(part)})
    return content
