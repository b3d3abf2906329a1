"""Which parameter a refusal is about, and what the next request is like."""

from typing import Any

import pytest

from chatbot.llm.http.refused_parameters import read_refused_parameter, without_parameters
from chatbot.llm.providers.openai_provider import REFUSING_MODELS_MAX, RefusedParameters

OPENAI = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


def openai(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


@pytest.mark.parametrize(
    ("document", "parameter"),
    [
        (openai(OPENAI, param="max_tokens", code="unsupported_parameter"), "max_tokens"),
        (openai(OPENAI), "max_tokens"),
        (
            openai("Unsupported value: 'temperature' does not support 0.7", param="temperature", code="x"),
            "temperature",
        ),
        (openai("`temperature` is deprecated for this model."), "temperature"),
        (openai("no", param="top_p", code="unsupported_value"), "top_p"),
        ({"error": "unknown field: seed"}, "seed"),
        ({"message": "Unrecognized request argument supplied: stop"}, "stop"),
        ("Unknown parameter: 'stream_options.include_usage'.", "stream_options"),
        (openai("Unknown parameter", param="stream_options.include_usage"), "stream_options"),
        (
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "seed",
        ),
        ({"detail": "top_p isn't supported here"}, "top_p"),
        # Another fault than the parameter itself: it must be seen, not hidden by leaving the parameter out.
        (openai("max_tokens is too large: 9999. This model supports at most 4096 tokens", param="max_tokens"), None),
        (openai("temperature must be at most 1", param="temperature", code="invalid_value"), None),
        (openai("temperature: values above 1 are not allowed", param="temperature"), None),
        (openai("max_tokens is too large: 9. This model does not support more than 8", param="max_tokens"), None),
        ({"detail": "top_p 1.5 is not supported, the range is 0 to 1"}, None),
        (openai("Unsupported parameter: 'logprobs'", param="logprobs"), None),
        (openai("The model 'gpt-9' is not supported"), None),
        ({"detail": []}, None),
        ({"error": None}, None),
        ([], None),
        (None, None),
        (openai("no", param=["temperature"], code=7), None),
    ],
)
def test_only_a_refused_parameter_is_taken_for_one(document: Any, parameter: str | None) -> None:
    assert read_refused_parameter(document) == parameter


def test_the_limit_of_tokens_gets_its_other_name_and_the_rest_is_left_out() -> None:
    body = {"model": "m", "max_tokens": 9, "temperature": 0.7, "top_p": 1}
    assert without_parameters(body, frozenset()) is body
    assert without_parameters(body, frozenset({"max_tokens", "temperature", "seed"})) == {
        "model": "m",
        "max_completion_tokens": 9,
        "top_p": 1,
    }


def test_what_is_remembered_is_bounded_and_by_model() -> None:
    refused = RefusedParameters()
    for number in range(REFUSING_MODELS_MAX + 1):
        refused.remember(str(number), frozenset({"seed"}))
    assert refused.of("0") == frozenset()
    assert refused.of("1") == refused.of(str(REFUSING_MODELS_MAX)) == frozenset({"seed"})


def test_what_requests_at_the_same_time_learn_is_put_together() -> None:
    refused = RefusedParameters()
    refused.remember("m", frozenset({"seed"}))
    refused.remember("m", frozenset({"top_p"}))
    assert refused.of("m") == {"seed", "top_p"}


def test_a_name_that_a_later_version_has_recorded_is_left_out() -> None:
    assert without_parameters({"model": "m", "min_p": 1}, frozenset({"min_p"})) == {"model": "m"}
