"""What the API's document says of /v1: its tag, limits, examples that are taken, and errors in OpenAI's form."""

import json
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from chatbot.api.openapi.document import build_openapi_document
from chatbot.api.openapi.v1_examples import ANSWERED, CREATED, EXAMPLES, ID, MODEL, completion_transcript
from chatbot.api.problems import RETRY_AFTER_S, Problem, RequestFault, problem_of
from chatbot.api.requests import decode_body
from chatbot.api.v1.chunk_view import ChunkView
from chatbot.api.v1.completion_bodies import CompletionBody
from chatbot.api.v1.completion_requests import check_completion, completion_parameters
from chatbot.api.v1.completion_views import ID_PREFIX, MICROSECONDS
from chatbot.api.v1.error_form import render_error
from chatbot.api.v1.request_messages import images_of, request_messages
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.config.sections.v1_settings import V1Settings
from chatbot.config.settings import Settings
from chatbot.sessions.replies.reply import Outcome
from events.schema.parts import Media

SMALL = Settings(v1=V1Settings(messages_max=3), chat=ChatSettings(max_tokens_ceiling=17, tools_max=1))
DOCUMENT = build_openapi_document(Settings(), "1.2.3")
TAG = "OpenAI"
MEDIA = Media("0" * 64, "image/png", 70)


def named(name: str, document: dict[str, Any] = DOCUMENT) -> Any:
    whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())


def operations() -> list[dict[str, Any]]:
    return [
        operation for path, calls in DOCUMENT["paths"].items() if path.startswith("/v1") for operation in calls.values()
    ]


def test_the_calls_under_v1_have_a_tag_of_their_own() -> None:
    assert len(operations()) == 18
    assert {tag for operation in operations() for tag in operation["tags"]} == {TAG}
    assert TAG in [tag["name"] for tag in DOCUMENT["tags"]]


@pytest.mark.parametrize("name", EXAMPLES[CompletionBody])
def test_each_request_in_the_examples_is_one_that_the_service_takes(name: str) -> None:
    raw = json.dumps(EXAMPLES[CompletionBody][name]).encode()
    body = decode_body(raw, CompletionBody)
    settings = Settings()
    check_completion(body, settings.v1.messages_max)
    completion_parameters(body, raw, settings.chat, 100)
    files = {file.path: MEDIA for file in images_of(body.messages)}
    assert request_messages(body.messages, files, settings.v1.message_max_chars)


def test_the_documented_limits_are_the_ones_in_force() -> None:
    documented = named("CompletionBody", build_openapi_document(SMALL, "1"))
    message = {"role": "user", "content": "x"}
    for body, is_allowed in (
        ({"model": "m", "messages": [message] * 3}, True),
        ({"model": "m", "messages": [message] * 4}, False),
        ({"model": "m", "messages": []}, False),
        ({"messages": [message]}, False),
        ({"model": "m", "messages": [message], "temperature": 2.1}, False),
        ({"model": "m", "messages": [message], "a_field_of_tomorrow": 1}, True),
        ({"model": "m", "messages": [{"role": "narrator", "content": "x"}]}, False),
    ):
        assert documented.is_valid(body) is is_allowed, body
        try:
            check_completion(decode_body(json.dumps(body).encode(), CompletionBody), SMALL.v1.messages_max)
        except RequestFault:
            assert not is_allowed, body
        else:
            assert is_allowed, body
    fields = build_openapi_document(SMALL, "1")["components"]["schemas"]["CompletionBody"]["properties"]
    assert "more than 17 count" in fields["max_completion_tokens"]["description"]
    assert fields["tools"]["maxItems"] == 1


def test_the_streamed_example_is_a_stream_of_documented_chunks() -> None:
    operation = DOCUMENT["paths"]["/v1/chat/completions"]["post"]
    assert completion_transcript() in operation["description"]
    *data, done = re.findall(r"^data: (.*)$", completion_transcript(), re.MULTILINE)
    assert done == "[DONE]"
    for line in data:
        named("CompletionChunk").validate(json.loads(line))
    assert completion_transcript().encode() == streamed_reply()


def streamed_reply() -> bytes:
    view = ChunkView(ID.removeprefix(ID_PREFIX), MODEL, CREATED, "reasoning_content", include_usage=False)
    outcome = Outcome("complete", ANSWERED, 4, CREATED * MICROSECONDS, finish_reason="stop")
    return view.start(3, 0) + view.text(ANSWERED, 3, len(ANSWERED)) + view.end(outcome, len(ANSWERED))


@pytest.mark.parametrize(
    "error",
    [
        Problem(404, "model-not-found", "T", "d", errors=[{"path": "$.model", "detail": "d"}]),
        Problem(429, "too-many-pending", "T", "d"),
        Problem(503, "llm-overloaded", "T", "d", partial="안", message_id="m"),
        RequestFault("must not be blank", "$.messages[0].content"),
    ],
    ids=lambda error: error.kind,
)
def test_an_error_is_as_documented(error: Problem | RequestFault) -> None:
    problem = problem_of(error)
    assert problem is not None
    answer = render_error(problem, RETRY_AFTER_S)
    assert isinstance(answer.body, bytes)
    named("ErrorView").validate(json.loads(answer.body))
    documented = DOCUMENT["components"]["responses"]["Error"]
    assert answer.content_type in documented["content"]
    sent = {name for name in answer.headers if name not in ("Content-Type", "Content-Length")}
    assert sent <= set(documented["headers"])
    for operation in operations():
        for status, response in operation["responses"].items():
            assert status == "200" or response == {"$ref": "#/components/responses/Error"}
