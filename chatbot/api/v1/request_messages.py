"""The messages of a request for a completion, as parts: checked, and the images that are in them. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from chatbot.api.message_parts import PostedFile
from chatbot.api.part_bodies import ImageUrl, ImageUrlBody
from chatbot.api.problems import RequestFault
from chatbot.api.requests import check_text
from chatbot.api.v1.completion_bodies import (
    AssistantMessage,
    AudioPart,
    DeveloperMessage,
    FilePart,
    FunctionMessage,
    ImagePart,
    MessageBody,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
    VideoPart,
)
from chatbot.api.v1.transcript_checks import check_newest
from chatbot.sessions.domain.transcript import TranscriptMessage
from events.schema.parts import Media, Part, Parts, Reasoning, Refusal, Text, ToolCall, ToolResult, count_chars

SentPart = TextPart | ImagePart | AudioPart | FilePart | VideoPart | RefusalPart
OLD_MESSAGE = "is the old form, which is not supported: send tool messages and tool_calls"
NO_FILES = "is not supported: messages may have text and images"


def images_of(messages: Sequence[MessageBody]) -> list[PostedFile]:
    """The images that the messages bring, in their order. Raises RequestFault for other files."""
    return list(_images(messages))


def _images(messages: Sequence[MessageBody]) -> Iterator[PostedFile]:
    for number, message in enumerate(messages):
        content = message.content
        for index, part in enumerate(content if isinstance(content, list) else ()):
            path = f"$.messages[{number}].content[{index}]"
            if isinstance(part, AudioPart | FilePart | VideoPart):
                raise RequestFault(NO_FILES, f"{path}.type")
            if isinstance(part, ImagePart):
                yield PostedFile(path, ImageUrlBody(image_url=ImageUrl(part.image_url.url)))


def request_messages(
    messages: Sequence[MessageBody], files: Mapping[str, Media], chars_max: int
) -> tuple[TranscriptMessage, ...]:
    """The messages as they were sent, with parts as events have them. `files` are those of `images_of`, by path.
    `chars_max`: code points of one message, and of all system messages together.

    Raises RequestFault.
    """
    found: list[TranscriptMessage] = []
    system_chars = 0
    for number, message in enumerate(messages):
        path = f"$.messages[{number}]"
        one = _request_message(message, path, files)
        chars = count_chars(one.parts)
        if one.role == "system":
            system_chars += chars
        if max(chars, system_chars) > chars_max:
            why = f"has {max(chars, system_chars)} characters; at most {chars_max} are allowed"
            raise RequestFault(why, f"{path}.content")
        found.append(one)
    check_newest(found[-1], f"$.messages[{len(found) - 1}].content")
    return tuple(found)


def _request_message(message: MessageBody, path: str, files: Mapping[str, Media]) -> TranscriptMessage:
    match message:
        case SystemMessage() | DeveloperMessage():
            return TranscriptMessage("system", _content(message.content, path, files))
        case UserMessage():
            return TranscriptMessage("user", _content(message.content, path, files))
        case AssistantMessage():
            return TranscriptMessage("assistant", _reply_parts(message, path, files))
        case ToolMessage():
            check_text(message.tool_call_id, f"{path}.tool_call_id", len(message.tool_call_id))
            given = _content(message.content, path, files)
            nested = tuple(part for part in given if isinstance(part, Text | Media))
            return TranscriptMessage("tool", (ToolResult(message.tool_call_id, nested),))
        case FunctionMessage():
            raise RequestFault(OLD_MESSAGE, f"{path}.role")
        case _:
            assert_never(message)


def _reply_parts(message: AssistantMessage, path: str, files: Mapping[str, Media]) -> Parts:
    """Reasoning comes first, tool calls last, as models write them."""
    if message.function_call is not None:
        raise RequestFault(OLD_MESSAGE, f"{path}.function_call")
    parts: list[Part] = []
    for name, reasoning in (("reasoning_content", message.reasoning_content), ("reasoning", message.reasoning)):
        if reasoning and not parts:
            check_text(reasoning, f"{path}.{name}", len(reasoning), blank=True)
            parts.append(Reasoning(reasoning))
    parts += _content(message.content, path, files)
    if message.refusal:
        check_text(message.refusal, f"{path}.refusal", len(message.refusal), blank=True)
        parts.append(Refusal(message.refusal))
    for index, call in enumerate(message.tool_calls or ()):
        at = f"{path}.tool_calls[{index}]"
        check_text(call.id, f"{at}.id", len(call.id))
        check_text(call.function.name, f"{at}.function.name", len(call.function.name))
        arguments = call.function.arguments or ""
        check_text(arguments, f"{at}.function.arguments", len(arguments), blank=True)
        parts.append(ToolCall(call.id, call.function.name, arguments))
    return tuple(parts)


def _content(content: str | Sequence[SentPart] | None, path: str, files: Mapping[str, Media]) -> Parts:
    """A message's content as parts. Empty texts are left out: no event may have one."""
    if isinstance(content, str):
        check_text(content, f"{path}.content", len(content), blank=True)
        return (Text(content),) if content else ()
    found = (_part(part, f"{path}.content[{index}]", files) for index, part in enumerate(content or ()))
    return tuple(part for part in found if part is not None)


def _part(part: SentPart, path: str, files: Mapping[str, Media]) -> Part | None:
    match part:
        case TextPart():
            check_text(part.text, f"{path}.text", len(part.text), blank=True)
            return Text(part.text) if part.text else None
        case RefusalPart():
            check_text(part.refusal, f"{path}.refusal", len(part.refusal), blank=True)
            return Refusal(part.refusal) if part.refusal else None
        case ImagePart():
            return files[path]
        case AudioPart() | FilePart() | VideoPart():
            raise RequestFault(NO_FILES, f"{path}.type")
        case _:
            assert_never(part)
