"""A branch as the messages of Vercel's AI SDK: replies with the results between them are one message."""

from itertools import count
from typing import Any

import pytest

from chatbot.api.problems import RequestFault
from chatbot.api.requests import decode_body
from chatbot.api.ui_protocols import ui_messages as module
from chatbot.api.ui_protocols.ui_message_bodies import UiChatBody, UiMessage, UiPart
from chatbot.api.ui_protocols.ui_messages import sent_messages, ui_messages
from chatbot.sessions.session_queries import MessageWithText
from events.schema.parts import Part, Text, ToolCall, ToolResult
from projections.folds.message import MessageRow

numbers = count(1)


def message(role: str, *parts: Part) -> MessageWithText:
    number = next(numbers)
    row = MessageRow(number, f"m{number}", None, number, role, "complete", number, number, 0, None, None, None)
    return MessageWithText(row, "", parts=parts)


def shown(*messages: MessageWithText) -> list[UiMessage]:
    return ui_messages(messages, lambda sha256: sha256)


def call(call_id: str) -> ToolCall:
    return ToolCall(call_id, "weather", "{}")


def result(call_id: str, text: str) -> ToolResult:
    return ToolResult(call_id, (Text(text),))


def outputs(parts: list[UiPart]) -> list[str | None]:
    """Of the parts that are tool calls."""
    return [bytes(one.output).decode() if one.output else None for one in parts if one.type == "dynamic-tool"]


def test_results_are_those_of_the_reply_before_them() -> None:
    """Some model servers give the calls of each reply the same ids."""
    (question, reply) = shown(
        message("user", Text("Compare.")),
        message("assistant", call("call_0"), call("call_1")),
        message("tool", result("call_0", "Seoul")),
        message("tool", result("call_1", "Busan")),
        message("assistant", call("call_0")),
        message("tool", result("call_0", "Jeju")),
        message("assistant", Text("Done.")),
    )
    assert (question.role, reply.role) == ("user", "assistant")
    assert [one.type for one in reply.parts if one.type != "dynamic-tool"] == ["step-start"] * 3 + ["text"]
    assert outputs(reply.parts) == ['"Seoul"', '"Busan"', '"Jeju"']


def test_a_message_between_replies_begins_another_one() -> None:
    first, question, second = shown(
        message("assistant", call("a")), message("user", Text("And?")), message("assistant", Text("Done."))
    )
    assert [one.role for one in (first, question, second)] == ["assistant", "user", "assistant"]
    assert shown(message("tool", result("a", "cut off from its call")), message("assistant"))[0].parts[0].type == (
        "step-start"
    )


def test_each_part_of_a_long_message_is_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0
    with_result = module._with_result

    def counted(part: UiPart, found: Any) -> UiPart:
        nonlocal looked_at
        looked_at += 1
        return with_result(part, found)

    monkeypatch.setattr(module, "_with_result", counted)
    calls = 10
    steps: list[MessageWithText] = []
    for _ in range(100):
        ids = [f"c{number}" for number in range(calls)]
        steps += [message("assistant", *map(call, ids)), message("tool", *(result(one, "x") for one in ids))]
    (reply,) = shown(*steps)
    assert len(reply.parts) == 100 * (calls + 1)
    assert looked_at <= len(reply.parts)


@pytest.mark.parametrize("value", [b'"\xff"', b'{"a":"\xff"}', b'["\xc3"]'])
@pytest.mark.parametrize("members", [b'"input":%b', b'"state":"output-available","output":%b'])
def test_bytes_that_are_no_text_are_refused(members: bytes, value: bytes) -> None:
    part = b'{"type":"tool-x","toolCallId":"1",%b}' % (members % value)
    raw = b'{"id":"x","messages":[{"id":"a","role":"assistant","parts":[%b]}]}' % part
    with pytest.raises(RequestFault) as refused:
        sent_messages(decode_body(raw, UiChatBody).messages, {})
    assert refused.value.status == 400
