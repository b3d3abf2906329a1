"""Whatever bytes a model server sends: a reply or an LlmError, the same however they are split, in bounded memory."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from chatbot.llm.http.content_decoder import ContentDecoder
from chatbot.llm.http.error_mapping import error_from_event, error_from_status, read_retry_after
from chatbot.llm.http.http_response import EventTooLong, SseParser
from chatbot.llm.http.refused_parameters import read_refused_parameter
from chatbot.llm.provider import LlmError
from chatbot.llm.providers.midm_provider import _read_answer, _Reply
from chatbot.llm.providers.openai_completion import Completion
from tests.fuzz.damage import SIZES, cut, damaged
from tests.support.model.provider_client import PartsSink

STREAMS = sorted((Path(__file__).parents[1] / "unit" / "completions" / "streams").iterdir())
OPENAI = [path.read_bytes()[:3000] for path in STREAMS]
MIDM = [
    b'data: {"type": "chunk", "content": "Hel"}\n\ndata: {"type": "chunk", "content": "lo \\ud83d"}\n\n'
    b'data: {"type": "chunk", "content": "\\ude42"}\n\ndata: {"type": "complete", "total_tokens": 2}\n\n'
    b"data: [DONE]\n\n",
    b'data: {"type": "error", "message": {"code": 503}}\n\n',
]
DOCUMENTS = [
    b'{"choices": [{"message": {"content": "Hello", "tool_calls": [{"id": "c", "function": {"name": "f",'
    b' "arguments": "{}"}}]}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}',
    b'{"response": ["Hello", {"type": "text", "text": "x"}], "usage": {"total_tokens": 3}}',
    b'{"error": {"message": "no", "code": "429", "param": "temperature"}}',
    b'{"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]}',
]
LINE_MAX_BYTES = 4096


def events_of(data: bytes, sizes: list[int]) -> list[bytes] | str:
    parser, events = SseParser(LINE_MAX_BYTES), []
    try:
        for piece in cut(data, sizes):
            events += parser.feed(piece)
            assert len(parser._unfinished) <= LINE_MAX_BYTES
            assert parser._data_bytes <= LINE_MAX_BYTES
        return events + parser.end()
    except EventTooLong:
        return "too long"


@given(damaged(OPENAI + MIDM), SIZES)
def test_events_do_not_depend_on_how_the_bytes_are_split(data: bytes, sizes: list[int]) -> None:
    whole, parts = events_of(data, []), events_of(data, sizes)
    assert whole == parts or "too long" in (whole, parts)


def openai_reply(events: list[bytes], at_once: int, think_tags: Any) -> tuple[Any, Any]:
    sink = PartsSink()
    reply = Completion("asked", "secret", sink, think_tags=think_tags, held_max_chars=500)
    try:
        for start in range(0, len(events), at_once):
            reply.add_events(events[start : start + at_once])
            if reply.failure is not None or reply.done:
                break
        reply.end()
        if reply.failure is not None:
            raise reply.failure
        reply.check_ended()
        finish: Any = reply.finish()
    except LlmError as error:
        finish = type(error)
    for part in sink.calls:
        assert "".join(part).encode(), "no half of a surrogate pair"
    return sink.parts, finish


@given(damaged(OPENAI), st.integers(1, 5), st.sampled_from(("off", "tagged", "opened")))
def test_a_reply_of_openais_protocol_is_parts_or_an_error(data: bytes, at_once: int, think_tags: str) -> None:
    events = events_of(data, [])
    if isinstance(events, list):
        assert openai_reply(events, at_once, think_tags)[1] == openai_reply(events, 1000, think_tags)[1]


@given(damaged(MIDM), st.integers(1, 5))
def test_a_reply_of_midms_protocol_is_text_or_an_error(data: bytes, at_once: int) -> None:
    def text_of(events: list[bytes], at_once: int) -> str:
        reply, text = _Reply("secret"), ""
        for start in range(0, len(events), at_once):
            text += reply.add_events(events[start : start + at_once])
            if reply.failure is not None or reply.done:
                break
        return text + reply.end()

    events = events_of(data, [])
    if isinstance(events, list):
        text = text_of(events, at_once)
        assert text == text_of(events, 1000)
        assert text.encode().decode() == text, "no half of a surrogate pair"


@given(damaged(DOCUMENTS, changes_max=6))
def test_a_document_is_a_reply_or_an_error(data: bytes) -> None:
    sink = PartsSink()
    reply = Completion("asked", "secret", sink)
    try:
        reply.add_document(data)
        reply.end()
        reply.finish()
    except LlmError as error:
        told = str(error)
    else:
        told = ""
    assert "secret" not in told
    with suppress(LlmError):
        _read_answer(data)


@given(
    damaged(DOCUMENTS, changes_max=6),
    st.sampled_from((400, 401, 404, 413, 422, 429, 500, 503, 529)),
    st.text(max_size=30)
    | st.sampled_from(("1", "1.5", "-1", "1e999", "nan", "Wed, 21 Oct 2099 07:28:00 GMT", "9" * 400)),
)
def test_a_refusal_is_an_error_whatever_it_says(data: bytes, status: int, retry_after: str) -> None:
    wait_s = read_retry_after(lambda name: retry_after if name in ("retry-after", "date") else None, 1e9)
    assert wait_s is None or wait_s >= 0
    assert isinstance(error_from_status(status, data, wait_s, "secret"), LlmError)
    assert isinstance(error_from_event(data.decode(errors="replace"), "secret"), LlmError)


@given(
    st.binary(max_size=200) | damaged([b"\x1f\x8b\x08\0\0\0\0\0\0\3", b"x\x9c\3\0\0\0\0\1", *OPENAI]),
    SIZES,
    st.text(max_size=10),
)
def test_a_compressed_body_is_bytes_or_an_error(data: bytes, sizes: list[int], label: str) -> None:
    def decode(sizes: list[int]) -> bytes | None:
        decoder = ContentDecoder(label)
        try:
            return b"".join(out for piece in cut(data, sizes) for out in decoder.feed(piece)) + decoder.end()
        except LlmError:
            return None

    assert decode(sizes) == decode([])


WORDS = st.sampled_from(
    ("error", "message", "code", "param", "detail", "loc", "msg", "type", "content", "tool_calls", "function", "index",
     "id", "name", "arguments", "reasoning_content", "refusal", "prompt_tokens", "completion_tokens", "status")
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)


@given(JSON)
def test_an_error_object_may_have_any_form(document: Any) -> None:
    assert read_refused_parameter(document) is None or isinstance(document, dict | str)
    read_refused_parameter({"detail": [{"loc": [document], "msg": "extra fields not permitted", "type": document}]})
    assert isinstance(error_from_event(document, "secret"), LlmError)
    assert isinstance(error_from_status(400, msgspec.json.encode(document)), LlmError)
    chunk = {"choices": [{"delta": document, "message": document, "index": document}], "usage": document}
    sink = PartsSink()
    reply = Completion("asked", "secret", sink)
    reply.add_events([msgspec.json.encode(chunk), msgspec.json.encode({"choices": document, "error": None})])
    with suppress(LlmError):  # of a tool call without a name
        reply.end()
