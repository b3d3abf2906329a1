"""What the providers ask for, and how refusals are read."""

from typing import Any

import pytest

from chatbot.llm.http.error_mapping import EXCERPT_MAX_CHARS, error_from_event, error_from_status, excerpt
from chatbot.llm.http.http_response import read_usage
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import LlmError, LlmFailed, LlmOverloaded, LlmUnavailable, log_safe_reason, reason_of
from chatbot.llm.providers import midm_provider, openai_provider
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
    body = midm_provider.request_body((), parameters)
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
    body = openai_provider.request_body((), parameters, "m")
    assert body == {"messages": (), "stream": True, "model": "m"} | asked


def test_a_model_that_nobody_knows_is_not_named() -> None:
    assert "model" not in openai_provider.request_body((), Parameters(), "")


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, LlmFailed, False),
        (401, LlmFailed, False),
        (404, LlmFailed, False),
        (408, LlmFailed, True),
        (409, LlmFailed, True),
        (529, LlmOverloaded, True),
        (301, LlmFailed, False),
        (429, LlmOverloaded, True),
        (500, LlmFailed, True),
        (502, LlmFailed, True),
        (503, LlmUnavailable, True),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[LlmError], retryable: bool) -> None:
    error = error_from_status(status, b'{"detail": "why"}', 7.0, "key")
    assert type(error) is kind
    assert (error.retryable, error.status, error.retry_after_s) == (retryable, status, 7.0)
    refused = " (key refused)" if status == 401 else ""
    assert str(error) == f"The model server answered {status}{refused}: why"


@pytest.mark.parametrize(
    ("status", "document", "kind", "retryable"),
    [
        (400, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', LlmOverloaded, True),
        (500, b'{"error":{"code":"server_busy"}}', LlmOverloaded, True),
        (503, b'{"error":{"code":"ServerBusy"}}', LlmOverloaded, True),
        (500, b'{"error":"the model is overloaded"}', LlmOverloaded, True),
        (500, b"server busy, please try again later, maximum pending requests exceeded", LlmOverloaded, True),
        (429, b'{"error":{"code":"insufficient_quota","type":"insufficient_quota"}}', LlmOverloaded, False),
        (403, b'{"error":{"code":"rate_limit_exceeded"}}', LlmFailed, False),
        (400, b'{"error":{"type":"invalid_request_error","message":"busy is no role"}}', LlmFailed, False),
        (500, b"", LlmFailed, True),
    ],
)
def test_an_overload_is_known_by_its_words_too(
    status: int, document: bytes, kind: type[LlmError], retryable: bool
) -> None:
    error = error_from_status(status, document)
    assert (type(error), error.retryable) == (kind, retryable)


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
    assert str(error_from_status(502, b"<html>\xff bad gateway", None)).startswith(
        "The model server answered 502: <html>"
    )


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        (429, LlmOverloaded, True),
        (529, LlmOverloaded, True),
        ("429", LlmOverloaded, True),
        ("rate_limit_exceeded", LlmOverloaded, True),
        ("engine_overloaded_error", LlmOverloaded, True),
        ("RESOURCE_EXHAUSTED", LlmOverloaded, True),
        ("server_busy", LlmOverloaded, True),
        (500, LlmFailed, True),
        ("503", LlmFailed, True),
        (408, LlmFailed, True),
        ("server_error", LlmFailed, True),
        ("ServiceUnavailable", LlmFailed, True),
        (400, LlmFailed, False),
        ("insufficient_quota", LlmFailed, False),
        ("invalid_prompt", LlmFailed, False),
        ("x", LlmFailed, False),
        (None, LlmFailed, False),
        ([], LlmFailed, False),
    ],
)
@pytest.mark.parametrize("name", ["code", "status", "type"])
def test_an_error_in_a_stream_tells_by_its_code_whether_to_ask_again(
    name: str, code: Any, kind: type[LlmError], retryable: bool
) -> None:
    if name == "type" and not (isinstance(code, str) and not code.isdecimal()):
        return  # a type is a word
    error = error_from_event({"message": "no", name: code})
    assert (type(error), error.retryable) == (kind, retryable)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "more": {}}, Usage(1, 2, 3)),
        ({"prompt_tokens": 1, "completion_tokens": 2}, Usage(1, 2, 3)),
        ({"completion_tokens": 2}, None),
        ({"prompt_tokens": None, "completion_tokens": "2"}, None),
        ({"input_tokens": 1, "output_tokens": 2}, Usage(1, 2, 3)),
        ({"input_tokens": 1, "output_tokens": 2, "prompt_tokens": 0}, Usage(1, 2, 3)),
        ({"prompt_eval_count": 1, "eval_count": 2, "eval_duration": 9}, Usage(1, 2, 3)),
        ({"prompt_tokens": 1, "output_tokens": 2}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_whole_or_absent(told: Any, usage: Usage | None) -> None:
    assert read_usage(told) == usage


def test_an_error_without_a_message_says_its_docstring() -> None:
    assert str(LlmUnavailable()) == "LLM server not available"


def test_options_show_no_key() -> None:
    url = "http://me:secret-1@host"
    assert "secret-1" not in repr(LlmOptions(server_url=url, proxy=url, api_key="secret-1"))


def test_what_is_logged_of_an_error_is_its_class_its_cause_and_what_was_asked() -> None:
    refused = LlmUnavailable()
    refused.__cause__ = ConnectionError("connection refused")
    refused.requested_url = "http://host:80/v1/models"
    told = "LLM server not available: connection refused (asked http://host:80/v1/models)"
    assert log_safe_reason(refused) == reason_of(refused) == told
    unknown = LlmUnavailable()
    unknown.__cause__ = error_from_status(404, b"what you asked: PRIVATE")
    assert log_safe_reason(unknown) == "LLM server not available: The model server answered 404"
    failed = error_from_event({"message": "PRIVATE"})
    failed.__cause__ = ValueError("PRIVATE")
    assert log_safe_reason(failed) == "The model server failed"
    assert reason_of(failed) == "The model server failed: PRIVATE: PRIVATE"
