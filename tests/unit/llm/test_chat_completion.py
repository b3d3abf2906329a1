"""Replies in the shapes that real servers of /v1/chat/completions send, without a socket."""

import json
from typing import Any

import pytest

from chatbot.llm.provider import Finish, LlmFailed
from chatbot.llm.providers.openai_completion import Completion
from events.catalogue import Usage
from events.schema.parts import Text, text_of
from tests.support.model.provider_client import PartsSink

HELLO = {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, **fields}]}


def heard(*events: Any) -> tuple[str, Completion]:
    """The text of a stream of these events: bytes as they are, all else as JSON."""
    sink = PartsSink()
    reply = Completion("asked", "secret-1", sink)
    for event in events:
        reply.add_events([event if isinstance(event, bytes) else json.dumps(event).encode()])
    reply.end()
    return text_of(sink.parts), reply


@pytest.mark.parametrize(
    "beat",
    [b"", b" ", b"ping", b": OPENROUTER PROCESSING", b"[]", b"null", b"7", b'"text"', b"{}", b'{"type":"ping"}'],
)
def test_heartbeats_among_the_data_are_passed_over(beat: bytes) -> None:
    text, reply = heard(beat, HELLO, beat, choice(delta={"content": " you"}), beat, b"[DONE]")
    assert (text, reply.done, reply.failure) == ("Hello you", True, None)


@pytest.mark.parametrize("mark", [b"[DONE]", b"[DONE] ", b" [DONE]\t"])
def test_the_end_mark_may_have_spaces(mark: bytes) -> None:
    assert heard(HELLO, mark)[1].done


@pytest.mark.parametrize(
    "chunk",
    [
        choice(delta={"content": [{"type": "text", "text": "Hello"}]}),
        choice(delta={"content": ["Hel", {"text": "lo"}]}),
        choice(delta={"content": "Hello", "role": None, "tool_calls": [], "reasoning_content": None}),
        choice(delta={"content": "Hello"}, finish_reason={"type": None}),
        choice(delta={"content": "Hello"}, finish_reason=""),
        choice(delta={"content": "Hello"}, logprobs=7, finish_reason=False),
        {"choices": [{"index": None, "delta": {"content": "Hello"}}], "model": 7, "object": None, "usage": []},
        {"choices": [{"delta": {"content": "Hello"}}], "error": None, "usage": None, "id": [1]},
        {"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "Hello"}}]},
        {"choices": [None, {"index": 0, "delta": {"content": "Hello"}}], "message": None},
        choice(delta={}, message={"content": "Hello"}),
        choice(delta={"content": ""}, message={"content": [{"text": "Hello"}]}),
        choice(delta=None, message={"content": "Hello"}),
        choice(delta=[], message={"content": "Hello"}),
        choice(delta={"content": "Hello"}, message={"content": "Hello"}),
        choice(delta={"content": "Hello"}, message="Hello"),
    ],
)
def test_a_chunk_in_another_shape_is_read(chunk: dict[str, Any]) -> None:
    text, reply = heard(chunk, b"[DONE]")
    assert (text, reply.failure) == ("Hello", None)
    assert reply.finish() == Finish("stop", "asked")


@pytest.mark.parametrize("nothing", [{"choices": None}, {"choices": []}, {"choices": {}}, {"choices": [None]}])
def test_chunks_without_a_choice_have_no_text(nothing: dict[str, Any]) -> None:
    assert heard(nothing, HELLO, nothing, b"[DONE]")[0] == "Hello"


def test_a_message_that_repeats_what_the_deltas_have_brought_is_not_heard_twice() -> None:
    whole = {"content": "Hello you"}
    for last in (choice(delta={}, message=whole), choice(message=whole, finish_reason="stop")):
        assert heard(HELLO, choice(delta={"content": " you"}), last, b"[DONE]")[0] == "Hello you"


def test_messages_in_place_of_deltas_are_put_together() -> None:
    pieces = (choice(message={"content": each}) for each in ("Hel", "lo"))
    assert heard(*pieces, b"[DONE]")[0] == "Hello"


@pytest.mark.parametrize(
    "chunk", [b'{"choices":[{"delta":{"content":"a', choice(delta={"content": 7}), {"choices": 7}, {"choices": "text"}]
)
def test_what_may_have_been_text_fails_the_reply_and_keeps_what_came(chunk: Any) -> None:
    text, reply = heard(HELLO, chunk)
    assert text == "Hello"
    assert "malformed" in str(reply.failure)


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (b'"\\ud83d"', b'"\\ude42!"', "\U0001f642!"),
        (b'"\xec\x95"', b'"\x88\xeb\x85\x95"', "안녕"),
        (b'"Hi \\udcaf"', b'" there"', "Hi \ufffd there"),
        (b'"\\ud83d"', b'"there"', "\ufffdthere"),
        (b'"Hi \xff"', b'"\xfe"', "Hi \ufffd\ufffd"),
        (b'"Hi "', b'"\\ud83d"', "Hi \ufffd"),
    ],
)
def test_characters_that_are_split_over_chunks(first: bytes, second: bytes, text: str) -> None:
    between = [b": ping", choice(delta={"role": "assistant"}), {"usage": USAGE, "choices": []}]
    for gap in ([], between):
        events = [b'{"choices":[{"delta":{"content":%b}}]}' % each for each in (first, second)]
        assert heard(events[0], *gap, events[1], b"[DONE]")[0] == text


def test_an_invalid_byte_in_a_field_that_nobody_reads_changes_nothing() -> None:
    text, reply = heard(b'{"id":"\xff\\ud83d","model":"m\xff","choices":[{"delta":{"content":"Hello"}}]}', b"[DONE]")
    assert (text, reply.finish().model) == ("Hello", "m\ufffd")


def test_the_message_of_an_error_is_valid_text() -> None:
    failure = heard(b'{"error":{"message":"no \xff \\ud83d secret-1"}}')[1].failure
    assert str(failure) == "The model server failed: no \ufffd \ufffd ***"
    assert "\ufffd" in str(heard(b'{"error":{"odd":"\\ud83d"}}')[1].failure)


@pytest.mark.parametrize(
    ("word", "reason", "detail"),
    [("MAX_TOKENS", "length", "MAX_TOKENS"), ("content_filter", "content_filter", ""), ("eos", "stop", "eos")],
)
def test_the_servers_word_for_the_end_is_kept(word: str, reason: str, detail: str) -> None:
    finish = heard(HELLO, choice(delta={}, finish_reason=word), b"[DONE]")[1].finish()
    assert (finish.reason, finish.detail) == (reason, detail)


@pytest.mark.parametrize("word", ["network_error", "insufficient_system_resource", "abort", "error"])
def test_a_fault_of_the_server_is_no_end_but_its_text_and_usage_are_kept(word: str) -> None:
    text, reply = heard(choice(delta={"content": "Hello"}, finish_reason=word), {"usage": USAGE}, b"[DONE]")
    assert text == "Hello"
    with pytest.raises(LlmFailed, match="ended the reply with an error") as failed:
        reply.finish()
    finish = failed.value.finish
    assert finish is not None
    assert (finish.usage, finish.detail) == (Usage(3, 2, 5), "" if word == "error" else word)
    assert failed.value.retryable


def test_an_error_after_the_usage_keeps_the_usage() -> None:
    failure = heard(HELLO, {"usage": USAGE, "choices": []}, {"error": "it broke"})[1].failure
    assert failure is not None
    assert failure.finish == Finish("error", "asked", Usage(3, 2, 5))


def test_a_reply_is_final_from_its_finish_reason_on_unless_text_follows() -> None:
    stop = choice(delta={}, finish_reason="stop")
    assert not heard(HELLO)[1].is_final
    assert heard(HELLO, stop)[1].is_final
    assert heard(choice(delta={"content": "a"}, finish_reason="stop"))[1].is_final
    text, reply = heard(stop, HELLO, stop)
    assert (text, reply.is_final) == ("Hello", False)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        (
            [
                {"usage": USAGE | {"completion_tokens_details": {"reasoning_tokens": 2}}},
                choice(delta={}, finish_reason="MAX_TOKENS"),
            ],
            "used all its tokens for reasoning",
        ),
        ([choice(delta={}, finish_reason="length")], "length limit before its first character"),
        ([choice(delta={}, finish_reason="SAFETY")], "filtered the whole reply"),
        ([choice(delta={"reasoning_content": "hm"})], ""),
        ([choice(delta={"refusal": "I cannot"})], ""),
        ([], ""),
    ],
)
def test_a_reply_without_any_part_says_why(events: list[Any], reason: str) -> None:
    text, reply = heard(*events, b"[DONE]")
    assert text == ""
    assert reason in reply.finish().no_text_reason
    assert bool(reason) == bool(reply.finish().no_text_reason)


@pytest.mark.parametrize(
    "document",
    [
        b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"length"}]}',
        b'\xef\xbb\xbf {"choices":[{"index":null,"message":{"content":[{"type":"text","text":"Hello"}]},'
        b'"finish_reason":"length"}],"usage":"?"}',
        b'{"choices":[{"text":7,"message":{"content":"Hel"},"delta":{"content":"Hello"},"finish_reason":"length"}]}',
    ],
)
def test_a_whole_document_is_read_as_leniently(document: bytes) -> None:
    sink = PartsSink()
    reply = Completion("asked", "", sink)
    reply.add_document(document)
    assert sink.parts == (Text("Hello"),)
    assert reply.finish().reason == "length"
