"""Problems in the form of OpenAI's errors, with what SDKs are told about retries."""

import json
from typing import Any

import pytest

from chatbot.api.problem_types import PROBLEM_TYPES
from chatbot.api.problems import Problem, RequestFault, problem_of
from chatbot.api.v1.error_form import is_v1, render_error
from chatbot.sessions.domain import rejections

OPENAI_TYPES = {"invalid_request_error", "rate_limit_error", "server_error"}


def rendered(problem: Problem | None, retry_s: int = 7) -> tuple[dict[str, Any], int, dict[str, str]]:
    assert problem is not None
    response = render_error(problem, retry_s)
    assert isinstance(response.body, bytes)
    return json.loads(response.body)["error"], response.status, dict(response.headers)


@pytest.mark.parametrize("kind", PROBLEM_TYPES)
def test_every_problem_has_a_form_that_clients_read(kind: str) -> None:
    known = PROBLEM_TYPES[kind]
    error, status, headers = rendered(Problem(known.status or 418, kind, known.title, "what is wrong"))
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] in OPENAI_TYPES
    assert error["code"].isidentifier()
    assert status != 422, "clients of OpenAI expect 400"
    assert (headers.get("Retry-After") == "7") == (status in (429, 503))
    if status >= 500 or status in (408, 409, 429):
        assert headers["X-Should-Retry"] in ("true", "false"), "by themselves SDKs would repeat the request"


@pytest.mark.parametrize(
    ("problem", "retried"),
    [
        (Problem(503, "overloaded", "", ""), "true"),
        (Problem(429, "too-many-pending", "", ""), "true"),
        (Problem(429, "media-quota", "", ""), "false"),
        (Problem(409, "reply-cancelled", "", ""), "false"),
        (Problem(500, "internal-error", "", ""), "false"),
        (Problem(503, "outcome-unknown", "", ""), "false"),
        (Problem(502, "llm-failed", "", "", is_final=False), "true"),
        (Problem(502, "llm-failed", "", "", is_final=True), "false"),
    ],
    ids=lambda one: f"{one.kind}-{len(one.extra)}" if isinstance(one, Problem) else one,
)
def test_clients_repeat_what_may_succeed(problem: Problem, retried: str) -> None:
    assert rendered(problem)[2]["X-Should-Retry"] == retried


def test_the_field_at_fault_is_named_as_openai_does() -> None:
    error, status, _ = rendered(problem_of(RequestFault("is too long", "$.messages[0].content")))
    assert (status, error["param"], error["message"]) == (
        400,
        "messages[0].content",
        "messages[0].content: is too long",
    )
    error, _, _ = rendered(problem_of(RequestFault("is wrong", "header.X-Session-Id")))
    assert (error["param"], error["message"]) == ("header.X-Session-Id", "header.X-Session-Id: is wrong")
    error, _, _ = rendered(problem_of(rejections.ContextTooLong(9, 5)))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    error, _, _ = rendered(problem_of(RequestFault("the costs are $.50")))
    assert (error["param"], error["message"]) == (None, "the costs are $.50")


def test_only_v1_has_this_form() -> None:
    assert is_v1("/v1")
    assert is_v1("/v1/models")
    assert not is_v1("/v1x")
    assert not is_v1("/api/v1/models")
