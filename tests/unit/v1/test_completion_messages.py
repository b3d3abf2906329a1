"""The messages of a request as parts, whatever form their clients give them."""

import json
from typing import Any

import pytest

from chatbot.api.problems import RequestFault
from chatbot.api.requests import decode_body
from chatbot.api.v1.completion_bodies import CompletionBody
from chatbot.api.v1.request_messages import images_of, request_messages
from chatbot.sessions.domain.transcript import TranscriptMessage
from events.schema.parts import Media, Reasoning, Refusal, Text, ToolCall, ToolResult

PICTURE = Media("a" * 64, "image/png", 3)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}}
QUESTION = {"role": "user", "content": "Hi"}


def read(*messages: dict[str, Any], chars_max: int = 1000) -> tuple[TranscriptMessage, ...]:
    raw = json.dumps({"model": "m", "messages": messages}).encode()
    body = decode_body(raw, CompletionBody)
    files = {one.path: PICTURE for one in images_of(body.messages)}
    return request_messages(body.messages, files, chars_max)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "system", "content": "x"}, TranscriptMessage("system", (Text("x"),))),
        ({"role": "developer", "content": [{"type": "text", "text": "x"}]}, TranscriptMessage("system", (Text("x"),))),
        ({"role": "system", "content": None}, TranscriptMessage("system")),
        ({"role": "user", "content": ""}, TranscriptMessage("user")),
        (
            {"role": "user", "name": "mina", "content": [{"type": "text", "text": "see"}, IMAGE]},
            TranscriptMessage("user", (Text("see"), PICTURE)),
        ),
        ({"role": "assistant", "content": ""}, TranscriptMessage("assistant")),
        (
            {"role": "assistant", "content": "a", "refusal": "b", "reasoning_content": "c", "audio": None},
            TranscriptMessage("assistant", (Reasoning("c"), Text("a"), Refusal("b"))),
        ),
        (
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
            TranscriptMessage("assistant", (Text("a"), Refusal("b"))),
        ),
        ({"role": "assistant", "reasoning": "c"}, TranscriptMessage("assistant", (Reasoning("c"),))),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "b", "function": {"name": "g", "arguments": None}},
                ],
            },
            TranscriptMessage("assistant", (ToolCall("a", "f", "{}"), ToolCall("b", "g", ""))),
        ),
        (
            {"role": "tool", "tool_call_id": "a", "content": "21"},
            TranscriptMessage("tool", (ToolResult("a", (Text("21"),)),)),
        ),
        (
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "x"}, IMAGE]},
            TranscriptMessage("tool", (ToolResult("a", (Text("x"), PICTURE)),)),
        ),
        ({"role": "tool", "tool_call_id": "a", "content": ""}, TranscriptMessage("tool", (ToolResult("a", ()),))),
    ],
    ids=lambda one: json.dumps(one)[:60] if isinstance(one, dict) else "",
)
def test_each_form_of_a_message(message: dict[str, Any], expected: TranscriptMessage) -> None:
    assert read(message, QUESTION) == (expected, TranscriptMessage("user", (Text("Hi"),)))


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([QUESTION, {"role": "user", "content": " "}], "$.messages[1].content"),
        ([{"role": "user", "content": [{"type": "text", "text": "a\0"}]}], "$.messages[0].content[0].text"),
        ([{"role": "assistant", "content": "x", "function_call": {"name": "f"}}], "$.messages[0].function_call"),
        (
            [{"role": "assistant", "tool_calls": [{"id": " ", "function": {"name": "f"}}]}],
            "$.messages[0].tool_calls[0].id",
        ),
        ([{"role": "user", "content": "x" * 1001}], "$.messages[0].content"),
        ([{"role": "system", "content": "x" * 600}] * 2, "$.messages[1].content"),
        ([{"role": "tool", "tool_call_id": "a", "content": [{"type": "file"}]}], "$.messages[0].content[0].type"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_message_that_cannot_be_recorded_is_refused_at_the_fault(messages: list[Any], path: str) -> None:
    with pytest.raises(RequestFault) as refused:
        read(*messages)
    assert refused.value.path == path
