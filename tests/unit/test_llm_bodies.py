"""What the providers ask for, and how refusals are read."""

from typing import Any

import pytest

from chatbot.llm import midm, openai
from chatbot.llm.errors import LlmError, LlmFailed, LlmOverloaded, LlmUnavailable
from chatbot.llm.exchange import read_usage
from chatbot.llm.options import LlmOptions
from chatbot.llm.refusal import EXCERPT_MAX_CHARS, excerpt, from_status, from_stream
from events.catalogue import Parameters, Usage


@pytest.mark.parametrize(
    ("parameters", "asked"),
    [
        (Parameters(), {"max_new_tokens": 128}),
        (Parameters(max_new_tokens=7, do_sample=False), {"max_new_tokens": 7, "do_sample": False}),
        (Parameters(do_sample=True), {"max_new_tokens": 128, "do_sample": True}),
        (Parameters(temperature=0.5), {"max_new_tokens": 128, "temperature": 0.5, "do_sample": True}),
        (
            Parameters(temperature=0.5, do_sample=False),
            {"max_new_tokens": 128, "temperature": 0.5, "do_sample": False},
        ),
        (Parameters(temperature=0.0, do_sample=True), {"max_new_tokens": 128, "do_sample": False}),
        (Parameters(top_p=0.5, stop=("x",), seed=3, model="m"), {"max_new_tokens": 128}),
    ],
)
def test_midm_is_asked_only_for_what_it_understands(parameters: Parameters, asked: dict[str, Any]) -> None:
    body = midm.request_body((), parameters)
    assert body == {"messages": ()} | asked


@pytest.mark.parametrize(
    ("parameters", "asked"),
    [
        (Parameters(), {}),
        (Parameters(do_sample=False, temperature=0.9), {"temperature": 0}),
        (Parameters(do_sample=True, temperature=0.9), {"temperature": 0.9}),
        (
            Parameters(max_new_tokens=9, top_p=0.5, stop=("x", "y"), seed=3),
            {"max_tokens": 9, "top_p": 0.5, "stop": ("x", "y"), "seed": 3},
        ),
    ],
)
def test_openai_is_asked_only_for_what_someone_wanted(parameters: Parameters, asked: dict[str, Any]) -> None:
    body = openai.request_body((), parameters, "m")
    assert body == {"messages": (), "stream": True, "model": "m"} | asked


def test_a_model_that_nobody_knows_is_not_named() -> None:
    assert "model" not in openai.request_body((), Parameters(), "")


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, LlmFailed, False),
        (401, LlmFailed, False),
        (404, LlmFailed, False),
        (301, LlmFailed, False),
        (429, LlmOverloaded, True),
        (500, LlmFailed, True),
        (502, LlmFailed, True),
        (503, LlmUnavailable, True),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[LlmError], retryable: bool) -> None:
    error = from_status(status, b'{"detail": "why"}', "7", "key")
    assert type(error) is kind
    assert (error.retryable, error.status, error.retry_after_s) == (retryable, status, 7.0)
    assert str(error) == f"The model server answered {status}: why"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"error": {"message": "no", "code": 1}}, "no"),
        ({"error": "no"}, "no"),
        ({"detail": [{"loc": ["body"], "msg": "no"}]}, '[{"loc":["body"],"msg":"no"}]'),
        ({"message": "two\n  lines"}, "two lines"),
        ("key secret-1 is wrong", "key *** is wrong"),
        ("x" * 500, "x" * (EXCERPT_MAX_CHARS - 1) + "…"),
    ],
)
def test_an_excerpt_is_one_short_line_without_our_key(document: Any, told: str) -> None:
    assert excerpt(document, "secret-1") == told


def test_a_refusal_that_is_no_json_is_quoted_all_the_same() -> None:
    assert str(from_status(502, b"<html>\xff bad gateway", None)).startswith("The model server answered 502: <html>")


@pytest.mark.parametrize(("code", "retryable"), [(429, True), (500, True), (400, False), ("x", False), (None, False)])
def test_an_error_in_a_stream_tells_by_its_code_whether_to_ask_again(code: Any, retryable: bool) -> None:
    assert from_stream({"message": "no", "code": code}).retryable is retryable


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "more": {}}, Usage(1, 2, 3)),
        ({"prompt_tokens": 1, "completion_tokens": 2}, Usage(1, 2, 3)),
        ({"completion_tokens": 2}, None),
        ({"prompt_tokens": None, "completion_tokens": "2"}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_whole_or_absent(told: Any, usage: Usage | None) -> None:
    assert read_usage(told) == usage


def test_an_error_without_a_message_says_its_docstring() -> None:
    assert str(LlmUnavailable()) == "LLM server not available"


def test_options_show_no_key() -> None:
    assert "secret-1" not in repr(LlmOptions(api_key="secret-1"))
