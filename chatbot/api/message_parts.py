"""What a posted message says: its parts, checked within the limits, and turned into those that are recorded. Pure."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from msgspec import Struct

from chatbot.api.part_bodies import (
    ImageUrlBody,
    MediaBody,
    NestedBody,
    PartBody,
    TextBody,
    ToolResultBody,
)
from chatbot.api.problems import RequestFault
from chatbot.api.requests import check_text
from chatbot.config.sections.chat_settings import ChatSettings
from events.schema.parts import Media, Parts, Text, ToolResult

ROOT = "$.message"
UPLOAD_HINT = "send the file to POST /api/media and name its sha256 in a part of type media, or send a data: URL"
_DATA_URL = re.compile(r"data:(?P<type>[^;,]{1,255})(;[^;,]{1,255})*;base64,", re.IGNORECASE)


class SentFile(Struct, frozen=True):
    """A file of a message at `path` in the request: the URL that the client sent."""

    path: str
    url: str


class PostedFile(Struct, frozen=True):
    """A file that a part names or brings. `path` leads to the part."""

    path: str
    part: ImageUrlBody | MediaBody

    @property
    def fault_path(self) -> str:
        """What to correct if the file is not accepted."""
        return f"{self.path}.image_url.url" if isinstance(self.part, ImageUrlBody) else f"{self.path}.sha256"


def check_message(message: Sequence[PartBody], role: str, limits: ChatSettings) -> None:
    """Check what the types do not express, but for the files. Raises RequestFault."""
    if not message:
        raise RequestFault("must have at least one part", ROOT)
    if len(message) > limits.message_max_parts:
        raise RequestFault(f"has {len(message)} parts; at most {limits.message_max_parts} are allowed", ROOT)
    for index, part in enumerate(message):
        if isinstance(part, ToolResultBody) != (role == "tool"):
            why = "must be tool_result, as role is tool" if role == "tool" else "tool_result needs role tool"
            raise RequestFault(why, f"{ROOT}[{index}].type")
    for path, text in _texts(message, ROOT):
        check_text(text, path, len(text), blank=True)
        if not text:
            raise RequestFault("must not be empty", path)
    for file in _files(message, ROOT):
        if isinstance(file.part, MediaBody) and file.part.name:
            check_text(file.part.name, f"{file.path}.name", len(file.part.name), blank=True)
    if role == "tool":
        _check_results(message, limits.tool_result_max_chars)
    else:
        _check_length(message, limits.message_max_chars)
        if not any(not isinstance(part, TextBody) or part.text.strip() for part in message):
            raise RequestFault("must not be empty or blank", ROOT)


def _check_results(message: Sequence[PartBody], max_chars: int) -> None:
    seen: set[str] = set()
    for index, part in enumerate(message):
        if isinstance(part, ToolResultBody):
            path = f"{ROOT}[{index}].call_id"
            check_text(part.call_id, path, len(part.call_id))
            if part.call_id in seen:
                raise RequestFault("is there more than once", path)
            seen.add(part.call_id)
    _check_length(message, max_chars)


def _check_length(message: Sequence[PartBody], max_chars: int) -> None:
    chars = sum(len(text) for _, text in _texts(message, ROOT))
    if chars > max_chars:
        raise RequestFault(f"has {chars} characters of text; at most {max_chars} are allowed", ROOT)


def _texts(parts: Sequence[PartBody], path: str) -> Iterator[tuple[str, str]]:
    """Every text, and the path to it. An empty result of a tool is no text."""
    for index, part in enumerate(parts):
        at = f"{path}[{index}]"
        match part:
            case TextBody():
                yield f"{at}.text", part.text
            case MediaBody() | ImageUrlBody():
                pass
            case ToolResultBody():
                if not isinstance(part.content, str):
                    yield from _texts(part.content, f"{at}.content")
                elif part.content:
                    yield f"{at}.content", part.content
            case _:
                assert_never(part)


def files_of(message: Sequence[PartBody]) -> list[PostedFile]:
    """The files of a message, in its order."""
    return list(_files(message, ROOT))


def _files(parts: Sequence[PartBody], path: str) -> Iterator[PostedFile]:
    for index, part in enumerate(parts):
        if isinstance(part, ImageUrlBody | MediaBody):
            yield PostedFile(f"{path}[{index}]", part)
        elif isinstance(part, ToolResultBody) and not isinstance(part.content, str):
            yield from _files(part.content, f"{path}[{index}].content")


def parts_of_message(message: Sequence[PartBody], files: Mapping[str, Media]) -> Parts:
    """The parts as they are recorded. `files` are those of `files_of`, by path."""
    parts: list[Text | Media | ToolResult] = []
    for index, part in enumerate(message):
        path = f"{ROOT}[{index}]"
        if not isinstance(part, ToolResultBody):
            parts.append(_nested_part(part, path, files))
            continue
        content = part.content
        if isinstance(content, str):
            nested: tuple[Text | Media, ...] = (Text(content),) if content else ()
        else:
            found = enumerate(content)
            nested = tuple(_nested_part(one, f"{path}.content[{number}]", files) for number, one in found)
        parts.append(ToolResult(part.call_id, nested, part.is_error))
    return tuple(parts)


def _nested_part(part: NestedBody, path: str, files: Mapping[str, Media]) -> Text | Media:
    return Text(part.text) if isinstance(part, TextBody) else files[path]


def decode_data_url(url: str, path: str) -> tuple[str, bytes]:
    """The stated media type and the bytes of a data: URL. Raises RequestFault. Takes a second for 300 MB."""
    found = _DATA_URL.match(url)
    if found is None:
        if re.match(r"https?:", url, re.IGNORECASE):
            why = f"this service fetches no addresses: {UPLOAD_HINT}"
            raise RequestFault(why, path)
        raise RequestFault("must be data:<type>;base64,<data>", path)
    try:
        data = base64.b64decode(url[found.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise RequestFault("is not base64", path) from None
    return found["type"].lower(), data
