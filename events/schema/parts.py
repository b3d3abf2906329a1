"""The parts of a message, in order: text, reasoning, refusals, tool calls, tool results, media. Part of the format: the
rules of `catalogue.py` apply, so tags never change.

An event has `parts` only if they are not exactly one text; its `content` is always the text of the text parts.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Protocol, assert_never

from msgspec import Struct

PARTS_MAX = 256  # of one event: far more than conversations need
NESTED_PARTS_MAX = 64  # of one tool result
CALL_ID_MAX_CHARS = 256  # servers use 9 to 64
NAME_MAX_CHARS = 256  # of a function; servers allow 64
MEDIA_NAME_MAX_CHARS = 255  # of a file, as file systems have it
MEDIA_TYPE_MAX_CHARS = 127  # RFC 6838, 4.2 allows 127 on either side of the slash; registered types have far less
KIND_MAX_CHARS = 64
TOOL_CALL = "tool_call"
REASON_CODE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")  # of an erasure or a redaction
SHA256 = re.compile(r"[0-9a-f]{64}\Z")  # as events and exports write one


class _Part(Struct, frozen=True, tag_field="type", omit_defaults=True):
    """Subclasses are the kinds of parts."""


class Text(_Part, frozen=True, tag="text"):
    text: str


class Reasoning(_Part, frozen=True, tag="reasoning"):
    """A model's reasoning before its answer. `duration_us`: from its first piece to its last."""

    text: str
    duration_us: int = 0


class Refusal(_Part, frozen=True, tag="refusal"):
    """A model's reason to refuse the request, if its server sends it in a separate field."""

    text: str


class ToolCall(_Part, frozen=True, tag="tool_call"):
    """A function that the model wants called. `arguments` are as the model wrote them: not necessarily valid JSON."""

    call_id: str
    name: str
    arguments: str


class Media(_Part, frozen=True, tag="media"):
    """A file whose bytes are kept under their SHA-256 (64 lower-case hexadecimal digits)."""

    sha256: str
    media_type: str
    bytes: int
    name: str | None = None


class ToolResult(_Part, frozen=True, tag="tool_result"):
    """The result of the tool call `call_id`."""

    call_id: str
    parts: tuple[Text | Media, ...]
    is_error: bool = False


class Redacted(_Part, frozen=True, tag="redacted"):
    """Stands where a part of the kind `kind` (its tag) was redacted, for the reason with this code. `call_id` is that
    of a tool call or a tool result, `name` a tool call's function.
    """

    kind: str
    reason_code: str
    call_id: str = ""
    name: str = ""


Part = Text | Reasoning | Refusal | ToolCall | ToolResult | Media | Redacted
Parts = tuple[Part, ...]


class HasParts(Protocol):
    """An event that contains a message."""

    @property
    def content(self) -> str: ...

    @property
    def parts(self) -> Parts: ...


class PartFault(Struct, frozen=True):
    """What is wrong with parts. `path` is its JSONPath, such as `$.parts[2].text`."""

    path: str
    detail: str


def parts_of(event: HasParts) -> Parts:
    """The parts of a message, also of an event that has only `content`; none for an empty message."""
    if event.parts:
        return event.parts
    return (Text(event.content),) if event.content else ()


def stored_parts(parts: Parts) -> Parts:
    """The field `parts` of an event whose message has `parts`: empty if `content` alone says the same."""
    return () if len(parts) == 1 and isinstance(parts[0], Text) else parts


def text_of(parts: Iterable[Part]) -> str:
    """The content of an event with these parts: the text parts joined, with nothing between them."""
    return "".join([part.text for part in parts if isinstance(part, Text)])


def flat(part: Part) -> str:
    """The text of a part that a reply's offsets count: its text, or a tool call's arguments."""
    match part:
        case Text() | Reasoning() | Refusal():
            return part.text
        case ToolCall():
            return part.arguments
        case ToolResult() | Media() | Redacted():
            return ""
        case _:
            assert_never(part)


def count_chars(parts: Iterable[Part]) -> int:
    """Code points of all texts, tool results included."""
    return sum(count_chars(part.parts) if isinstance(part, ToolResult) else len(flat(part)) for part in parts)


def count_bytes(parts: Iterable[Part]) -> int:
    """Bytes in UTF-8 of all texts, tool results included, and of all files."""
    return sum(_bytes_of(part) for part in parts)


def _bytes_of(part: Part) -> int:
    if isinstance(part, ToolResult):
        return count_bytes(part.parts)
    if isinstance(part, Media):
        return part.bytes
    text = flat(part)
    return len(text) if text.isascii() else len(text.encode())


def calls_of(parts: Iterable[Part]) -> tuple[ToolCall, ...]:
    return tuple(part for part in parts if isinstance(part, ToolCall))


def call_ids_of(parts: Iterable[Part]) -> tuple[str, ...]:
    """The ids of the tool calls, redacted ones included."""
    return tuple(
        part.call_id
        for part in parts
        if isinstance(part, ToolCall) or (isinstance(part, Redacted) and part.kind == TOOL_CALL)
    )


def redacted(part: Part, reason_code: str) -> Redacted:
    """What stands in place of `part` once it is redacted: the ids that other messages refer to are left."""
    match part:
        case Redacted():
            return part
        case ToolCall():
            return Redacted(TOOL_CALL, reason_code, part.call_id, part.name)
        case ToolResult():
            return Redacted("tool_result", reason_code, part.call_id)
        case Text() | Reasoning() | Refusal() | Media():
            return Redacted(str(part.__struct_config__.tag), reason_code)
        case _:
            assert_never(part)


def with_redacted(parts: Parts, part: int | None, reason_code: str) -> Parts:
    """`parts` without the content of one of them, or (None) of all. A message without parts gets one that says so."""
    if part is None:
        return tuple(redacted(one, reason_code) for one in parts) or (Redacted("text", reason_code),)
    return tuple(redacted(one, reason_code) if index == part else one for index, one in enumerate(parts))


def is_redacted(parts: Iterable[Part]) -> bool:
    """Whether any of them is redacted."""
    return any(isinstance(part, Redacted) for part in parts)


def media_of(parts: Iterable[Part]) -> tuple[Media, ...]:
    """All media, tool results included, with repeats."""
    return tuple(_media(parts))


def _media(parts: Iterable[Part]) -> Iterator[Media]:
    for part in parts:
        if isinstance(part, Media):
            yield part
        elif isinstance(part, ToolResult):
            yield from _media(part.parts)


def find_faults(parts: Parts, path: str = "$.parts") -> Iterator[PartFault]:
    """Every fault for which an event is refused, independent of settings; none if the parts are valid."""
    yield from _count_faults(parts, PARTS_MAX, path)
    for index, part in enumerate(parts[:PARTS_MAX]):
        yield from _faults_of(part, f"{path}[{index}]")


def _faults_of(part: Part, path: str) -> Iterator[PartFault]:
    match part:
        case Text() | Reasoning() | Refusal():
            if not part.text:
                yield PartFault(f"{path}.text", "must not be empty")
        case ToolCall():
            yield from _length_faults(part.call_id, 1, CALL_ID_MAX_CHARS, f"{path}.call_id")
            yield from _length_faults(part.name, 1, NAME_MAX_CHARS, f"{path}.name")
        case Media():
            yield from _media_faults(part, path)
        case Redacted():
            yield from _length_faults(part.kind, 1, KIND_MAX_CHARS, f"{path}.kind")
            if REASON_CODE.match(part.reason_code) is None:
                yield PartFault(f"{path}.reason_code", "must be up to 64 of a-z, 0-9, - and _")
        case ToolResult():
            yield from _length_faults(part.call_id, 1, CALL_ID_MAX_CHARS, f"{path}.call_id")
            yield from _count_faults(part.parts, NESTED_PARTS_MAX, f"{path}.parts")
            for index, nested in enumerate(part.parts[:NESTED_PARTS_MAX]):
                yield from _faults_of(nested, f"{path}.parts[{index}]")
        case _:
            assert_never(part)


def _media_faults(part: Media, path: str) -> Iterator[PartFault]:
    if SHA256.match(part.sha256) is None:
        yield PartFault(f"{path}.sha256", "must be 64 lower-case hexadecimal digits")
    if part.bytes < 1:
        yield PartFault(f"{path}.bytes", "must be at least 1")
    yield from _length_faults(part.media_type, 1, MEDIA_TYPE_MAX_CHARS, f"{path}.media_type")
    yield from _length_faults(part.name or "", 0, MEDIA_NAME_MAX_CHARS, f"{path}.name")


def _count_faults(parts: Parts | tuple[Text | Media, ...], most: int, path: str) -> Iterator[PartFault]:
    if len(parts) > most:
        yield PartFault(path, f"must have at most {most} parts")


def _length_faults(text: str, least: int, most: int, path: str) -> Iterator[PartFault]:
    if not least <= len(text) <= most:
        yield PartFault(path, f"must have between {least} and {most} characters")
