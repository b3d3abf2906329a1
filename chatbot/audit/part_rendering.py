"""Parts of messages as text that people read. Pure."""

from collections.abc import Iterator
from typing import assert_never

from events.schema.parts import Media, Part, Parts, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult


def readable_text(content: str, parts: Parts) -> str:
    """What a message says. Parts other than texts are marked by their kind, each on lines of its own; of a message
    without `parts` it is the content, unchanged.
    """
    return "\n".join(_lines(parts)) if parts else content


def _lines(parts: Parts | tuple[Text | Media, ...]) -> Iterator[str]:
    for part in parts:
        yield _readable(part)
        if isinstance(part, ToolResult):
            yield from _lines(part.parts)


def _readable(part: Part) -> str:
    match part:
        case Text():
            return part.text
        case Reasoning():
            return f"[reasoning] {part.text}"
        case Refusal():
            return f"[refusal] {part.text}"
        case ToolCall():
            return f"[call {part.call_id}: {part.name} {part.arguments}]"
        case ToolResult():
            return f"[{'error' if part.is_error else 'result'} of call {part.call_id}]"
        case Media():
            name = f" {part.name}" if part.name else ""
            return f"[{part.media_type} {part.sha256}, {part.bytes:,} bytes{name}]"
        case Redacted():
            return f"[{part.kind} redacted: {part.reason_code}]"
        case _:
            assert_never(part)
