"""Parts of a message, apart from events."""

from typing import get_args

import msgspec
import pytest

from events.catalogue import MessagePosted
from events.schema.parts import (
    CALL_ID_MAX_CHARS,
    NESTED_PARTS_MAX,
    PARTS_MAX,
    Media,
    Part,
    Parts,
    Reasoning,
    Redacted,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    calls_of,
    count_chars,
    find_faults,
    flat,
    media_of,
    parts_of,
    stored_parts,
    text_of,
)

IMAGE = Media("0" * 64, "image/png", 5)
CALL = ToolCall("call_1", "weather", '{"city":"서울"}')
RESULT = ToolResult("call_1", (Text("21 °C"), IMAGE))
EVERY_KIND: Parts = (Text("a"), Reasoning("bc"), Refusal("d"), CALL, RESULT, IMAGE, Redacted("text", "asked"))


def test_every_kind_is_in_the_sample() -> None:
    assert {type(part) for part in EVERY_KIND} == set(get_args(Part))


def test_parts_are_decoded_as_they_were_encoded_and_each_names_its_kind_first() -> None:
    text = msgspec.json.encode(EVERY_KIND)
    assert msgspec.json.decode(text, type=Parts) == EVERY_KIND
    kinds = [next(iter(fields.items())) for fields in msgspec.json.decode(text)]
    assert kinds == [
        ("type", kind) for kind in ("text", "reasoning", "refusal", "tool_call", "tool_result", "media", "redacted")
    ]


def test_content_is_the_text_of_the_text_parts() -> None:
    assert text_of((*EVERY_KIND, Text("e"))) == "ae"
    assert text_of(()) == ""


def test_offsets_count_texts_and_arguments() -> None:
    assert [flat(part) for part in EVERY_KIND] == ["a", "bc", "d", CALL.arguments, "", "", ""]
    assert count_chars(EVERY_KIND) == 4 + len(CALL.arguments) + len("21 °C")


def test_one_text_is_held_as_content_alone() -> None:
    assert stored_parts((Text("a"),)) == ()
    assert stored_parts(()) == ()
    assert stored_parts((Text("a"), Text("b"))) == (Text("a"), Text("b"))
    assert stored_parts((Reasoning("a"),)) == (Reasoning("a"),)


def test_an_event_without_parts_has_one_text_or_nothing() -> None:
    assert parts_of(MessagePosted("m", None, "user", "hello")) == (Text("hello"),)
    assert parts_of(MessagePosted("m", None, "user", "")) == ()
    assert parts_of(MessagePosted("m", None, "user", "a", parts=EVERY_KIND)) == EVERY_KIND


def test_media_and_calls_are_found_wherever_they_are() -> None:
    assert media_of(EVERY_KIND) == (IMAGE, IMAGE)
    assert calls_of(EVERY_KIND) == (CALL,)


@pytest.mark.parametrize(
    ("part", "path"),
    [
        (Text(""), "[1].text"),
        (Reasoning(""), "[1].text"),
        (Refusal(""), "[1].text"),
        (ToolCall("", "f", "{}"), "[1].call_id"),
        (ToolCall("c" * (CALL_ID_MAX_CHARS + 1), "f", "{}"), "[1].call_id"),
        (ToolCall("c", "", "{}"), "[1].name"),
        (ToolResult("", ()), "[1].call_id"),
        (ToolResult("c", (Text(""),)), "[1].parts[0].text"),
        (ToolResult("c", (Text("x"),) * (NESTED_PARTS_MAX + 1)), "[1].parts"),
        (Media("0" * 63, "image/png", 5), "[1].sha256"),
        (Media("0" * 64 + "\n", "image/png", 5), "[1].sha256"),
        (Media("A" * 64, "image/png", 5), "[1].sha256"),
        (Media("0" * 64, "", 5), "[1].media_type"),
        (Media("0" * 64, "image/png", 0), "[1].bytes"),
        (Media("0" * 64, "image/png", 5, "n" * 256), "[1].name"),
    ],
)
def test_a_fault_is_told_with_its_path(part: Part, path: str) -> None:
    assert [fault.path for fault in find_faults((Text("a"), part), "$.message")] == [f"$.message{path}"]


def test_parts_without_fault() -> None:
    assert list(find_faults(EVERY_KIND)) == []
    assert list(find_faults((ToolResult("c", ()), ToolCall("c", "f", "")))) == []


def test_too_many_parts_are_one_fault() -> None:
    assert [fault.path for fault in find_faults((Text("a"),) * (PARTS_MAX + 2))] == ["$.parts"]
