"""Messages with parts in the form of /v1/chat/completions. Pure."""

import binascii
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, assert_never

import msgspec

from chatbot.llm.provider import ChatMessage, ModelMessage, PartsMessage
from events.schema.parts import Media, Part, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult

LEFT_OUT = "[image left out]"  # in place of a file whose bytes are not given
ERROR_PREFIX = "Error: "  # of the result of a call that has failed: the form has no field for it
NO_ARGUMENTS = "{}"  # in place of a call's empty arguments: servers read them as JSON
EMPTY_REPLY = {"role": "assistant", "content": None}  # of reasoning alone: many servers refuse it
ENCODED_AT_ONCE_BYTES = 49_152  # a multiple of three: between two such pieces other threads run


def encode_messages(
    messages: Iterable[ModelMessage], *, send_reasoning: bool, refer_to_media: bool = False
) -> list[ChatMessage | dict[str, Any]]:
    """The messages as a request has them: those of text as they are, of a message with several tool results one each.

    The bytes of files are in it as Base64; with `refer_to_media` the URL `media:<sha256>` is in their place.
    """
    encoded: list[ChatMessage | dict[str, Any]] = []
    for message in messages:
        if isinstance(message, ChatMessage):
            encoded.append(message)
        elif message.role == "assistant":
            reply = _encode_reply(message.parts, send_reasoning=send_reasoning)
            if reply != EMPTY_REPLY:
                encoded.append(reply)
        else:
            encoded += _encode_input(message, refer_to_media=refer_to_media)
    return encoded


def _encode_reply(parts: Iterable[Part], *, send_reasoning: bool) -> dict[str, Any]:
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case Text() | Refusal():
                texts.append(part.text)
            case Reasoning():
                reasoning.append(part.text)
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments or NO_ARGUMENTS}
                calls.append({"id": part.call_id, "type": "function", "function": function})
            case ToolResult() | Media() | Redacted():
                pass  # no reply has them; requests have a text in place of what was redacted
            case _:
                assert_never(part)
    encoded: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    if send_reasoning and reasoning:
        encoded["reasoning_content"] = "".join(reasoning)
    if calls:
        encoded["tool_calls"] = calls
    return encoded


def _encode_input(message: PartsMessage, *, refer_to_media: bool) -> Iterator[dict[str, Any]]:
    """What a person or tools have said."""
    content: list[Text | Media] = []
    for part in message.parts:
        match part:
            case ToolResult():
                prefix = (Text(ERROR_PREFIX),) if part.is_error else ()
                result = _encode_content((*prefix, *part.parts), message.media, refer_to_media=refer_to_media)
                yield {"role": "tool", "tool_call_id": part.call_id, "content": result}
            case Text() | Media():
                content.append(part)
            case Reasoning() | Refusal() | ToolCall() | Redacted():
                pass  # only replies have them, and none what was redacted
            case _:
                assert_never(part)
    if content:
        yield {
            "role": message.role,
            "content": _encode_content(content, message.media, refer_to_media=refer_to_media),
        }


def _encode_content(
    parts: Iterable[Text | Media], media: Mapping[str, bytes], *, refer_to_media: bool
) -> str | list[dict[str, Any]]:
    """One text where there is nothing else: many servers take no list there."""
    encoded: list[dict[str, Any]] = []
    for part in parts:
        data = media.get(part.sha256) if isinstance(part, Media) else None
        if isinstance(part, Text):
            _add_text(encoded, part.text)
        elif refer_to_media:
            encoded.append(_image(f"media:{part.sha256}"))
        elif data is None:
            _add_text(encoded, LEFT_OUT)
        else:
            encoded.append(_image(_data_url(part.media_type, data)))
    if any(one["type"] != "text" for one in encoded):
        return encoded
    return "".join(one["text"] for one in encoded)


def _add_text(encoded: list[dict[str, Any]], text: str) -> None:
    if encoded and encoded[-1]["type"] == "text":
        encoded[-1]["text"] += text
    else:
        encoded.append({"type": "text", "text": text})


def _image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _data_url(media_type: str, data: bytes) -> msgspec.Raw:
    """A data: URL (RFC 2397) as JSON, so that the request's encoder only copies it. `media_type` is one that was
    detected; data is encoded piece by piece, because the interpreter runs nothing else during one.
    """
    head = msgspec.json.encode(f"data:{media_type};base64,")[:-1]
    url = bytearray(len(head) + 4 * ((len(data) + 2) // 3) + 1)
    url[: len(head)] = head
    at = len(head)
    for start in range(0, len(data), ENCODED_AT_ONCE_BYTES):
        piece = binascii.b2a_base64(data[start : start + ENCODED_AT_ONCE_BYTES], newline=False)
        url[at : at + len(piece)] = piece
        at += len(piece)
    url[at:] = b'"'
    return msgspec.Raw(url)
