"""Transcripts with too many entries are refused before objects are made of them."""

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatbot.api.openai_responses.create_bodies import InputTokensBody, ResponseBody, SentFunctionCall
from chatbot.api.openai_responses.input_items import SentItem, messages_of
from chatbot.api.openai_responses.response_requests import read_response
from chatbot.api.problems import RequestFault
from chatbot.api.requests import decode_body
from chatbot.api.ui_protocols.agui_bodies import RunAgentInput
from chatbot.api.ui_protocols.ui_message_bodies import UiChatBody
from chatbot.api.v1.completion_requests import read_completion
from chatbot.api.v1.transcript_checks import check_fields
from chatbot.sessions.domain.rejections import InvalidMessage
from chatbot.sessions.domain.transcript import MESSAGES_MAX, TranscriptMessage, read_added, read_transcript
from events.schema.parts import PARTS_MAX, Text, ToolCall, ToolResult

MANY = 200_000
HEAD_BYTES = 4 * 2**20  # what decoders of bounded lists take, however long the lists are
Read = Callable[[bytes], Any]


def decoded(kind: type[Any]) -> Read:
    def read(raw: bytes) -> Any:
        check_fields(raw, "messages")
        return decode_body(raw, kind)

    return read


READS: dict[str, Read] = {
    "completion": read_completion,
    "response": lambda raw: read_response(raw, ResponseBody),
    "tokens": lambda raw: read_response(raw, InputTokensBody),
    "ui": decoded(UiChatBody),
    "agui": decoded(RunAgentInput),
}
HEADS = b'{"model":"m","id":"x","threadId":"x","runId":"1",'


def listed(entry: bytes, count: int) -> bytes:
    return b"[" + b",".join([entry] * count) + b"]"


def message(field: bytes, entry: bytes, count: int, role: bytes = b"user") -> bytes:
    return b'[{"id":"","role":"%b","%b":%b}]' % (role, field, listed(entry, count))


@pytest.mark.parametrize(
    ("door", "field", "value", "path"),
    [
        ("response", b"input", listed(b"0", MANY), "$.input"),
        ("tokens", b"input", listed(b"{}", MANY), "$.input"),
        ("completion", b"messages", listed(b'{"role":"user"}', MANY), "$.messages"),
        ("ui", b"messages", listed(b'{"id":"","role":"user","parts":[]}', MANY), "$.messages"),
        ("agui", b"messages", listed(b'{"id":"","role":"activity"}', MANY), "$.messages"),
        ("ui", b"messages", message(b"parts", b'{"type":""}', MANY), "$.messages[0].parts"),
        ("agui", b"messages", message(b"content", b'{"type":""}', MANY), "$.messages[0].content"),
        (
            "completion",
            b"messages",
            message(b"tool_calls", b'{"id":"1","function":{"name":"a"}}', MANY, b"assistant"),
            "$.messages[0].tool_calls",
        ),
        (
            "agui",
            b"messages",
            message(b"toolCalls", b'{"id":"1","function":{"name":"a","arguments":""}}', MANY, b"assistant"),
            "$.messages[0].toolCalls",
        ),
    ],
)
def test_no_objects_are_made_of_too_many_entries(door: str, field: bytes, value: bytes, path: str) -> None:
    raw = HEADS + b'"%b":%b}' % (field, value)
    tracemalloc.start()
    try:
        with pytest.raises(RequestFault, match="that are allowed") as refused:
            READS[door](raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.path == path
    assert peak < len(raw) + HEAD_BYTES


def test_as_many_entries_as_are_allowed_are_read() -> None:
    body = read_response(b'{"model":"m","input":%b}' % listed(b"{}", MESSAGES_MAX), ResponseBody)
    assert body.input is not None
    assert len(body.input) == MESSAGES_MAX
    text = b'{"type":"text","text":"%b"}' % (b"," * MESSAGES_MAX)
    completion = read_completion(b'{"model":"m","messages":%b}' % message(b"content", text, PARTS_MAX))
    assert len(completion.messages[0].content or ()) == PARTS_MAX


def test_a_text_may_have_any_number_of_commas() -> None:
    text = "," * (2 * MESSAGES_MAX)
    assert read_response(b'{"model":"m","input":"%b"}' % text.encode(), ResponseBody).input == text


class CountedItems(list[SentItem]):
    """Counts how many of its items were looked at."""

    seen = 0

    def __iter__(self) -> Iterator[SentItem]:
        for item in super().__iter__():
            self.seen += 1
            yield item


def test_a_reply_of_too_many_calls_is_refused_at_the_first_beyond() -> None:
    calls = CountedItems(SentFunctionCall(f"c{number}", "f", "{}") for number in range(MESSAGES_MAX))
    with pytest.raises(RequestFault, match=f"at most {PARTS_MAX} parts") as refused:
        messages_of(calls, {}, 1_000_000, "$.input")
    assert refused.value.path == f"$.input[{PARTS_MAX}]"
    assert calls.seen == PARTS_MAX + 1


def test_characters_are_counted_over_all_items_of_a_reply() -> None:
    calls: list[SentItem] = [SentFunctionCall(f"c{number}", "f", "12345") for number in range(3)]
    assert len(messages_of(calls, {}, 15, "$.input")[0].parts) == 3
    with pytest.raises(RequestFault, match="has 15 characters; at most 14 are allowed") as refused:
        messages_of(calls, {}, 14, "$.input")
    assert refused.value.path == "$.input[2]"


def test_results_in_one_message_are_refused_at_the_first_beyond() -> None:
    results = [TranscriptMessage("tool", (ToolResult(f"c{number}", (Text("x"),)),)) for number in range(PARTS_MAX + 9)]
    with pytest.raises(InvalidMessage, match=f"at most {PARTS_MAX} parts") as refused:
        read_added(results, None, continues=True)
    assert refused.value.path == f"$.messages[{PARTS_MAX}].content"
    calls = TranscriptMessage("assistant", tuple(ToolCall(f"c{number}", "f", "") for number in range(PARTS_MAX)))
    with pytest.raises(InvalidMessage) as refused:
        read_transcript([calls, *results])
    assert refused.value.path == f"$.messages[{PARTS_MAX + 1}].content"
