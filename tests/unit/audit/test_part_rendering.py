"""Messages in parts, as people read them and as documents have them."""

import msgspec

from chatbot.audit.conversation import Conversation, MessageAsOf
from chatbot.audit.conversation_diff import diff_conversations
from chatbot.audit.conversation_rendering import build_document, render_markdown
from chatbot.audit.part_rendering import readable_text
from chatbot.audit.plain_text import render_text
from events.schema.parts import Media, Parts, Reasoning, Refusal, Text, ToolCall, ToolResult

IMAGE = Media("ab" * 32, "image/png", 10_485_760, "a.png")
PARTS: Parts = (
    Reasoning("hm"),
    Text("So"),
    Refusal("no"),
    ToolCall("call_1", "weather", '{"city":"Seoul"}'),
    ToolResult("call_1", (Text("21"), IMAGE), is_error=True),
)
LINES = [
    "[reasoning] hm",
    "So",
    "[refusal] no",
    '[call call_1: weather {"city":"Seoul"}]',
    "[error of call call_1]",
    "21",
    f"[image/png {'ab' * 32}, 10,485,760 bytes a.png]",
]


def conversation(content: str, parts: Parts = (), calls: str | None = None) -> Conversation:
    message = MessageAsOf("m", None, "assistant", content, "complete", 1, parts=parts, calls=calls)
    return Conversation("s", 1, head="m", messages={"m": message})


def test_a_message_of_text_alone_is_read_as_it_is() -> None:
    assert readable_text("So", ()) == "So"


def test_each_part_is_read_with_its_kind() -> None:
    assert readable_text("So", PARTS).splitlines() == LINES
    assert all(f"  {line}" in render_text(conversation("So", PARTS)).splitlines() for line in LINES)
    assert all(line in render_markdown(conversation("So", PARTS)).splitlines() for line in LINES)


def test_a_mark_of_headings_is_in_no_part() -> None:
    plain = render_markdown(conversation("So", PARTS))
    mark = plain.partition("ends in ")[2].partition(",")[0]
    forged = render_markdown(conversation("So", (*PARTS, Reasoning(mark))))
    assert forged.partition("ends in ")[2].partition(",")[0] != mark


def test_a_document_has_parts_where_there_are_more_than_one_text() -> None:
    (plain,) = msgspec.to_builtins(build_document(conversation("So")))["messages"]
    assert not {"parts", "calls"} & set(plain)
    (several,) = msgspec.to_builtins(build_document(conversation("So", PARTS, "open")))["messages"]
    assert (several["content"], several["calls"]) == ("So", "open")
    assert msgspec.convert(several["parts"], type=Parts) == PARTS


def test_a_diff_tells_changed_parts_and_what_became_of_calls() -> None:
    shorter = PARTS[:3]
    first, second = diff_conversations(conversation("So", shorter), conversation("So", PARTS, "open"))
    assert (first.what, first.before, first.after) == ("tool calls", None, "open")
    assert (second.what, second.before, second.after) == ("parts", shorter, PARTS)
    assert [line for line in second.lines if line.startswith("+")] == [f"+{line}" for line in LINES[3:]]
    assert diff_conversations(conversation("So", PARTS), conversation("So", PARTS)) == ()
    (text,) = diff_conversations(conversation("So"), conversation("Now"))
    assert text.what == "text"
