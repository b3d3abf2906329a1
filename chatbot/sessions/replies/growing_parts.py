"""A reply as one flat text and the marks where its parts begin. Pure.

Cursors, checkpoints and mirrors count code points of the flat text: of texts, reasoning and refusals what they say, of
tool calls the arguments. A reply of text alone has no marks, so it costs nothing that it has parts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, assert_never, get_args

from msgspec import Struct

from events.catalogue import ReplyProgressed
from events.schema.parts import (
    Media,
    Part,
    Parts,
    Reasoning,
    Redacted,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    flat,
    stored_parts,
)

NO_PART = -1  # in place of a part's number: of a reply without marks, or of a reader that was sent no part yet


PartKind = Literal["text", "reasoning", "refusal", "tool_call"]  # of what a model sends: tags of the parts in events
_KINDS: dict[str, PartKind] = {kind: kind for kind in get_args(PartKind)}


class Mark(Struct, frozen=True):
    """Part `part` begins at `start`. `call_id`, `name`: of a tool call."""

    part: int
    start: int
    kind: PartKind = "text"
    call_id: str = ""
    name: str = ""


class Segment(Struct, frozen=True):
    """A piece of one part: `text` begins at `offset` in the flat text. Empty where only the part's beginning is new."""

    offset: int
    text: str
    part: int = 0
    kind: PartKind = "text"
    call_id: str = ""
    name: str = ""

    @property
    def end(self) -> int:
        return self.offset + len(self.text)


def segment_of(event: ReplyProgressed) -> Segment:
    """What a checkpoint recorded."""
    kind = _KINDS.get(event.kind, "text")
    return Segment(event.offset, event.text, event.part, kind, event.call_id, event.name)


def marks_of(parts: Parts) -> tuple[Mark, ...]:
    """The marks of a reply with these recorded parts; none of a reply of text alone, which has no recorded parts."""
    marks: list[Mark] = []
    start = 0
    for number, part in enumerate(parts):
        match part:
            case Text():
                marks.append(Mark(number, start))
            case Reasoning():
                marks.append(Mark(number, start, "reasoning"))
            case Refusal():
                marks.append(Mark(number, start, "refusal"))
            case ToolCall():
                marks.append(Mark(number, start, "tool_call", part.call_id, part.name))
            case ToolResult() | Media() | Redacted():
                pass  # no model sends them; readers of an imported reply find them in the history
            case _:
                assert_never(part)
        start += len(flat(part))
    return tuple(marks)


def flat_text(parts: Iterable[Part]) -> str:
    return "".join([flat(part) for part in parts])


def with_ends(marks: Sequence[Mark], length: int) -> Iterator[tuple[Mark, int]]:
    """Each mark with the offset at which its part ends, in a flat text of `length` code points."""
    for number, mark in enumerate(marks, 1):
        yield mark, marks[number].start if number < len(marks) else length


def cut_segments(text: str, offset: int, marks: Sequence[Mark], after_part: int = NO_PART) -> list[Segment]:
    """`text`, the flat text from `offset` on, cut where parts begin.

    With each part that begins beyond `offset` though it is empty, and of the empty ones at `offset` those after
    `after_part`, which the reader has not.
    """
    if not marks:
        return [Segment(offset, text)] if text else []
    end = offset + len(text)
    found: list[Segment] = []
    for mark, part_end in with_ends(marks, end):
        begin = max(mark.start, offset)
        is_new = mark.start > offset or (mark.start == offset and mark.part > after_part)
        if begin < part_end or (is_new and begin == part_end):
            piece = text[begin - offset : part_end - offset]
            found.append(Segment(begin, piece, mark.part, mark.kind, mark.call_id, mark.name))
    return found


def with_segment(text: str, marks: tuple[Mark, ...], segment: Segment) -> tuple[str, tuple[Mark, ...]]:
    """A recorded reply with one more checkpoint, which replaces what was recorded from its offset on."""
    text = text[: segment.offset] + segment.text
    if not marks and not segment.part and segment.kind == "text":
        return text, marks
    kept = [mark for mark in marks if mark.part <= segment.part]
    if not kept and segment.part:
        kept.append(Mark(0, 0))  # a part of text that has no mark until another part follows
    if not kept or kept[-1].part < segment.part:
        kept.append(Mark(segment.part, segment.offset, segment.kind, segment.call_id, segment.name))
    return text, tuple(kept)


def build_parts(text: str, marks: Sequence[Mark], durations_us: Mapping[int, int] | None = None) -> Parts:
    """The parts as an event holds them: none of a reply of text alone. `durations_us`: of reasoning, by its part."""
    durations_us = durations_us or {}
    parts: list[Part] = []
    for mark, end in with_ends(marks, len(text)):
        piece = text[mark.start : end]
        match mark.kind:
            case "tool_call":
                parts.append(ToolCall(mark.call_id, mark.name, piece))
            case "text" | "reasoning" | "refusal" if not piece:
                pass  # no event may hold an empty one
            case "reasoning":
                parts.append(Reasoning(piece, durations_us.get(mark.part, 0)))
            case "refusal":
                parts.append(Refusal(piece))
            case "text":
                parts.append(Text(piece))
            case _:
                assert_never(mark.kind)
    return stored_parts(tuple(parts))


def content_of(text: str, marks: Sequence[Mark]) -> str:
    """The text of the parts of text."""
    if not marks:
        return text
    return "".join([text[mark.start : end] for mark, end in with_ends(marks, len(text)) if mark.kind == "text"])
