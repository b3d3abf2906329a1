"""Items of a request as messages: checked, and the images that are in them. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, assert_never

from msgspec import Raw, Struct

from chatbot.api.message_parts import SentFile
from chatbot.api.openai_responses.create_bodies import (
    InputAudio,
    InputFile,
    InputImage,
    InputText,
    OutputText,
    PlainText,
    SentFunctionCall,
    SentMessage,
    SentReasoning,
    SentRefusal,
    SentResult,
)
from chatbot.api.problems import RequestFault
from chatbot.api.requests import check_text, decode_body
from chatbot.api.v1.transcript_checks import check_newest
from chatbot.sessions.domain.transcript import TranscriptMessage
from events.schema.parts import (
    PARTS_MAX,
    Media,
    Part,
    Parts,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    count_chars,
)

SentItem = SentMessage | SentFunctionCall | SentResult | SentReasoning
SentPart = InputText | PlainText | OutputText | SentRefusal | InputImage | InputFile | InputAudio

NO_FILES = "is not supported: messages may have text and images"
NO_FILE_IDS = "is not supported: send image_url with data:<type>;base64,<data>, or with that of an item"
_ASSISTANT = "assistant"
Decoded = TypeVar("Decoded")


class _Kind(Struct, frozen=True):
    """What an item is. Messages need no type."""

    type: str = "message"


_KINDS: Mapping[str, type[Any]] = {
    "message": SentMessage,
    "function_call": SentFunctionCall,
    "function_call_output": SentResult,
    "reasoning": SentReasoning,
}


def read_items(sent: str | Sequence[Raw] | None, path: str, items_max: int) -> list[SentItem]:
    """The items of a request; a text is a message of the user. Raises RequestFault."""
    if sent is None:
        return []
    if isinstance(sent, str):
        return [SentMessage("user", sent)]
    if len(sent) > items_max:
        raise RequestFault(f"has {len(sent)} items; at most {items_max} are allowed", path)
    return [_read_item(bytes(raw), f"{path}[{index}]") for index, raw in enumerate(sent)]


def _read_item(raw: bytes, path: str) -> SentItem:
    kind = _decode(raw, _Kind, path).type
    wanted = _KINDS.get(kind)
    if wanted is None:
        why = f"items of the type {kind} are not supported: only {', '.join(_KINDS)}"
        raise RequestFault(why, f"{path}.type", kind="unsupported", status=422, title="Not supported")
    item: SentItem = _decode(raw, wanted, path)
    return item


def _decode(raw: bytes, kind: type[Decoded], path: str) -> Decoded:
    try:
        return decode_body(raw, kind)
    except RequestFault as fault:
        where = path + (fault.path or "$").removeprefix("$")
        raise RequestFault(fault.detail, where, status=fault.status, kind=fault.kind, title=fault.title) from None


def images_of(items: Sequence[SentItem], path: str) -> list[SentFile]:
    """The images that the items bring, in their order. Raises RequestFault for other files."""
    return list(_images(items, path))


def _images(items: Sequence[SentItem], path: str) -> Iterator[SentFile]:
    for number, item in enumerate(items):
        content, name = _content_of(item)
        for index, part in enumerate(content if isinstance(content, list) else ()):
            at = f"{path}[{number}].{name}[{index}]"
            if isinstance(part, InputFile | InputAudio):
                raise RequestFault(NO_FILES, f"{at}.type", kind="unsupported", status=422, title="Not supported")
            if isinstance(part, InputImage):
                if part.image_url is None:
                    raise RequestFault(
                        NO_FILE_IDS, f"{at}.file_id", kind="unsupported", status=422, title="Not supported"
                    )
                yield SentFile(at, part.image_url)


def _content_of(item: SentItem) -> tuple[str | Sequence[SentPart], str]:
    match item:
        case SentMessage():
            return item.content, "content"
        case SentResult():
            return item.output, "output"
        case SentFunctionCall() | SentReasoning():
            return (), ""
        case _:
            assert_never(item)


def messages_of(
    items: Sequence[SentItem], files: Mapping[str, Media], chars_max: int, path: str
) -> tuple[TranscriptMessage, ...]:
    """The items as messages. Reasoning, text and calls of one reply are one message. `files` are those of `images_of`,
    by path. `chars_max`: code points of one message. Raises RequestFault.
    """
    found: list[TranscriptMessage] = []
    chars = 0  # of the newest message
    for number, item in enumerate(items):
        at = f"{path}[{number}]"
        role, parts = _message(item, at, files)
        last = found[-1] if found else None
        if role == _ASSISTANT and last is not None and last.role == _ASSISTANT and _continues_reply(last.parts, item):
            if len(last.parts) + len(parts) > PARTS_MAX:
                raise RequestFault(f"must have at most {PARTS_MAX} parts", at)
            found[-1] = TranscriptMessage(role, (*last.parts, *parts))
            chars += count_chars(parts)
        elif parts or role != _ASSISTANT:
            found.append(TranscriptMessage(role, parts))
            chars = count_chars(parts)
        if chars > chars_max:
            raise RequestFault(f"has {chars} characters; at most {chars_max} are allowed", at)
    if found:
        check_newest(found[-1], path)
    return tuple(found)


def _continues_reply(parts: Parts, item: SentItem) -> bool:
    """Whether the item belongs to the reply that has these parts: a reply reasons, says something, and calls tools."""
    if isinstance(item, SentFunctionCall):
        return True
    return isinstance(item, SentMessage) and all(isinstance(part, Reasoning) for part in parts)


def _message(item: SentItem, path: str, files: Mapping[str, Media]) -> tuple[str, Parts]:
    match item:
        case SentMessage():
            role = "system" if item.role == "developer" else item.role
            parts = _content(item.content, f"{path}.content", files)
            if role == _ASSISTANT and any(isinstance(part, Media) for part in parts):
                raise RequestFault("an assistant's message has no images", f"{path}.content")
            return role, parts
        case SentFunctionCall():
            for name, text in (("call_id", item.call_id), ("name", item.name)):
                check_text(text, f"{path}.{name}", len(text))
            check_text(item.arguments, f"{path}.arguments", len(item.arguments), blank=True)
            return _ASSISTANT, (ToolCall(item.call_id, item.name, item.arguments),)
        case SentResult():
            check_text(item.call_id, f"{path}.call_id", len(item.call_id))
            given = _content(item.output, f"{path}.output", files)
            return "tool", (ToolResult(item.call_id, tuple(one for one in given if isinstance(one, Text | Media))),)
        case SentReasoning():
            text = "".join(part.text for part in item.content or ())
            check_text(text, f"{path}.content", len(text), blank=True)
            return _ASSISTANT, (Reasoning(text),) if text else ()
        case _:
            assert_never(item)


def _content(content: str | Sequence[SentPart], path: str, files: Mapping[str, Media]) -> Parts:
    """Empty texts are left out: no event may have one."""
    if isinstance(content, str):
        check_text(content, path, len(content), blank=True)
        return (Text(content),) if content else ()
    found = (_part(part, f"{path}[{index}]", files) for index, part in enumerate(content))
    return tuple(part for part in found if part is not None)


def _part(part: SentPart, path: str, files: Mapping[str, Media]) -> Part | None:
    match part:
        case InputText() | PlainText() | OutputText():
            check_text(part.text, f"{path}.text", len(part.text), blank=True)
            return Text(part.text) if part.text else None
        case SentRefusal():
            check_text(part.refusal, f"{path}.refusal", len(part.refusal), blank=True)
            return Refusal(part.refusal) if part.refusal else None
        case InputImage():
            return files[path]
        case InputFile() | InputAudio():
            raise RequestFault(NO_FILES, f"{path}.type", kind="unsupported", status=422, title="Not supported")
        case _:
            assert_never(part)
