"""Messages of Vercel's AI SDK as those of a transcript, and a session's messages as the SDK's. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never, get_args

import msgspec

from chatbot.api.message_parts import SentFile
from chatbot.api.problems import RequestFault
from chatbot.api.requests import decode_body
from chatbot.api.ui_protocols.sent_messages import ReplyMessages, SentMessage, checked_id, checked_text
from chatbot.api.ui_protocols.ui_message_bodies import UiMessage, UiPart, UiRole
from chatbot.sessions.domain.model_request import REDACTED_TEXT
from chatbot.sessions.domain.transcript import TranscriptMessage
from chatbot.sessions.session_queries import MessageWithText
from events.schema.parts import Media, Part, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult, parts_of

TOOL = "tool-"
DYNAMIC_TOOL = "dynamic-tool"
MISSING = "must not be missing"

_ROLES: Mapping[str, UiRole] = {role: role for role in get_args(UiRole)}
_encode = msgspec.json.Encoder().encode


def sent_files(messages: Sequence[UiMessage]) -> list[SentFile]:
    """The files of the user's messages. Raises RequestFault."""
    found: list[SentFile] = []
    for number, message in enumerate(messages):
        for index, part in enumerate(message.parts):
            if part.type == "file" and message.role == "user":
                path = f"$.messages[{number}].parts[{index}].url"
                if part.url is None:
                    raise RequestFault(MISSING, path)
                found.append(SentFile(path, part.url))
    return found


def sent_messages(messages: Sequence[UiMessage], files: Mapping[str, Media]) -> list[SentMessage]:
    """The messages of the transcript. `files` are those of `sent_files`, by path. Raises RequestFault."""
    found: list[SentMessage] = []
    for number, message in enumerate(messages):
        path = f"$.messages[{number}]"
        if message.role == "assistant":
            found += _reply_messages(message, number, path)
        else:
            parts = [_said(part, f"{path}.parts[{index}]", files) for index, part in enumerate(message.parts)]
            said = tuple(part for part in parts if part is not None)
            found.append(SentMessage(TranscriptMessage(message.role, said), number))
    return found


def _said(part: UiPart, path: str, files: Mapping[str, Media]) -> Part | None:
    """A part of a user's or the system's message; None of one that says nothing to the model."""
    if part.type == "text" and part.text:
        return Text(checked_text(part.text, f"{path}.text"))
    return files.get(f"{path}.url")


def _reply_messages(message: UiMessage, number: int, path: str) -> list[SentMessage]:
    messages = ReplyMessages(number)
    for index, part in enumerate(message.parts):
        at = f"{path}.parts[{index}]"
        if part.type in ("text", "reasoning") and part.text:
            text = checked_text(part.text, f"{at}.text")
            messages.add(Text(text) if part.type == "text" else Reasoning(text))
        elif part.type == DYNAMIC_TOOL or part.type.startswith(TOOL):
            messages.add_call(*_tool_part(part, at))
    return messages.finish()


def _tool_part(part: UiPart, path: str) -> tuple[ToolCall, ToolResult | None]:
    name = part.tool_name or part.type.removeprefix(TOOL)
    call_id = checked_id(part.tool_call_id or "", f"{path}.toolCallId")
    arguments = checked_text(_json(part.input, f"{path}.input"), f"{path}.input")
    call = ToolCall(call_id, checked_id(name, f"{path}.toolName"), arguments)
    match part.state:
        case "output-available":
            output = checked_text(_json(part.output, f"{path}.output"), f"{path}.output")
            return call, _result(call_id, output, is_error=False)
        case "output-error":
            return call, _result(call_id, checked_text(part.error_text or "", f"{path}.errorText"), is_error=True)
        case "output-denied":
            return call, _result(call_id, "the user has denied this call", is_error=True)
        case _:
            return call, None


def _result(call_id: str, text: str, *, is_error: bool) -> ToolResult:
    return ToolResult(call_id, (Text(text),) if text else (), is_error)


def _json(value: msgspec.Raw | msgspec.UnsetType, path: str) -> str:
    """A model's arguments that are no JSON are a text here, and sent back as they were. Raises RequestFault: nothing
    has looked at the bytes of its texts so far.
    """
    encoded = b"null" if isinstance(value, msgspec.UnsetType) else bytes(value)
    if encoded == b"null":
        return ""
    if encoded.startswith(b'"'):
        return decode_body(encoded, str)
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        raise RequestFault("is not UTF-8", path, status=400, kind="malformed", title="Malformed JSON") from None


def ui_messages(messages: Sequence[MessageWithText], file_url: Callable[[str], str]) -> list[UiMessage]:
    """A branch's messages as the SDK shows them: replies with the results between them are one message, which has the
    id of the first one.
    """
    found: list[UiMessage] = []
    step: list[UiPart] = []  # the newest reply since the last message of another role: results are of its calls
    for message in messages:
        row = message.row
        parts = parts_of(message)
        if row.role == "tool":
            if step:
                step = _with_results(step, parts)
                found[-1].parts[-len(step) :] = step
            continue
        shown = [one for part in parts if (one := _ui_part(part, file_url)) is not None]
        if row.role != "assistant":
            found.append(UiMessage(id=row.message_id, role=_ROLES.get(row.role, "user"), parts=shown))
            step = []
            continue
        is_next = bool(step)
        step = [UiPart(type="step-start"), *shown]
        if is_next:
            found[-1].parts.extend(step)
        else:
            found.append(UiMessage(id=row.message_id, role="assistant", parts=list(step)))
    return found


def _ui_part(part: Part, file_url: Callable[[str], str]) -> UiPart | None:
    match part:
        case Text():
            return UiPart(type="text", text=part.text, state="done")
        case Refusal():
            return UiPart(type="text", text=part.text, state="done")
        case Reasoning():
            return UiPart(type="reasoning", text=part.text, state="done")
        case Redacted():
            kind = "reasoning" if part.kind == "reasoning" else "text"
            return UiPart(type=kind, text=REDACTED_TEXT.text, state="done")
        case Media():
            url = file_url(part.sha256)
            return UiPart(type="file", media_type=part.media_type, url=url, filename=part.name)
        case ToolCall():
            given = msgspec.Raw(_encode(input_of(part.arguments)))
            return UiPart(
                type=DYNAMIC_TOOL, tool_name=part.name, tool_call_id=part.call_id, state="input-available", input=given
            )
        case ToolResult():
            return None
        case _:
            assert_never(part)


def input_of(arguments: str) -> Any:
    """A tool call's arguments as JSON; as the text that they are if they are none, or nested too deeply."""
    try:
        return msgspec.json.decode(arguments) if arguments else {}
    except (msgspec.DecodeError, RecursionError):
        return arguments


def _with_results(shown: Sequence[UiPart], results: Sequence[Part]) -> list[UiPart]:
    by_call = {part.call_id: part for part in results if isinstance(part, ToolResult)}
    return [_with_result(part, by_call.get(part.tool_call_id or "")) for part in shown]


def _with_result(part: UiPart, result: ToolResult | None) -> UiPart:
    if result is None:
        return part
    text = "".join(one.text for one in result.parts if isinstance(one, Text))
    if result.is_error:
        return msgspec.structs.replace(part, state="output-error", error_text=text)
    return msgspec.structs.replace(part, state="output-available", output=msgspec.Raw(_encode(text)))
