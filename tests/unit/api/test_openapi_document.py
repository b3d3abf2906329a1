"""The API's document says what the service does: its routes, its limits, its errors, and examples that are right."""

import json
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast, get_args

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from chatbot.api.app import build_app
from chatbot.api.json_checks import check_metadata
from chatbot.api.middleware import PUBLIC_PATHS
from chatbot.api.openapi.document import build_openapi_document
from chatbot.api.openapi.examples import EXAMPLES, SESSION, feed_transcript, transcript
from chatbot.api.openapi.operations import OPERATIONS
from chatbot.api.openapi.schemas import ProblemView
from chatbot.api.problem_types import PROBLEM_TYPES
from chatbot.api.problems import CAUSES, STATUSES, Problem, RequestFault, internal_error, problem_of, render
from chatbot.api.request_bodies import ChatBody
from chatbot.api.requests import check_chat, check_text, decode_body, if_match, last_event_id, read_idempotency_key
from chatbot.api.response_bodies import AcceptedView
from chatbot.api.services import Services
from chatbot.api.streaming import frames
from chatbot.audit.event_view import EventView
from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.config.sections.server_settings import ServerSettings
from chatbot.config.sections.session_settings import SessionSettings
from chatbot.config.settings import Settings
from tests.support.log.independent_chain_check import GENESIS, commitment_of, digest_of

SECRET = "correct-horse-battery"
SMALL = Settings(
    server=ServerSettings(body_max_bytes=4321),
    sessions=SessionSettings(timeout_hours=7, title_max_chars=5, metadata_max_bytes=99, metadata_keys_max=2),
    chat=ChatSettings(
        default_max_tokens=11,
        max_tokens_ceiling=17,
        default_temperature=0.3,
        default_do_sample=False,
        message_max_chars=23,
        system_prompt_max_chars=29,
    ),
)
LOCKED = Settings(auth=AuthSettings(keys={"alice": SECRET}))
DOCUMENT = build_openapi_document(Settings(), "1.2.3")


def operations(document: dict[str, Any] = DOCUMENT) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def validator(schema: dict[str, Any], document: dict[str, Any] = DOCUMENT) -> Any:
    whole = {**schema, "components": document["components"]}  # so that its references lead somewhere
    return jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker())


def named(name: str, document: dict[str, Any] = DOCUMENT) -> Any:
    return validator({"$ref": f"#/components/schemas/{name}"}, document)


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(inner)


def media(node: Any = DOCUMENT) -> list[dict[str, Any]]:
    contents = [found["content"] for found in walk(node) if isinstance(found.get("content"), dict)]
    return [one for content in contents for one in content.values() if "schema" in one]


def test_every_route_is_documented_and_nothing_else_is() -> None:
    parts = SimpleNamespace(
        settings=Settings(),
        supervisor=SimpleNamespace(running_reply=None),
        session_queries=SimpleNamespace(with_metadata=None),
        keys=None,
        has_writer=None,
        runner=None,
        queries=None,
        feeds=None,
        log=None,
        log_metrics=None,
        metrics=None,
        logger=None,
        log_writer=None,
    )
    services = cast(Services, parts)
    routes = {
        (route.method, route.resource.canonical)
        for route in build_app(services).router.routes()
        if route.resource is not None and route.method != "HEAD"  # aiohttp adds HEAD to every GET
    }
    assert {(method, path) for method, path, _ in operations()} == routes


def test_no_call_is_written_down_twice() -> None:
    calls = [call for listed in OPERATIONS.values() for call in listed]
    assert len({(call.method, call.path) for call in calls}) == len(calls)
    assert len({call.name for call in calls}) == len(calls)


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    for found in walk(DOCUMENT):
        if "schema" in found:
            jsonschema.Draft202012Validator.check_schema(found["schema"])
        target: Any = DOCUMENT
        for step in found.get("$ref", "#").split("/")[1:]:
            target = target[step]
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_parameter_of_a_path_is_described() -> None:
    for _, path, operation in operations():
        refs = {one.get("$ref", "").rpartition("/")[2] for one in operation["parameters"]}
        assert refs >= set(re.findall(r"{(\w+)}", path)), path


def test_every_example_is_valid() -> None:
    checked = 0
    for one in media():
        for name, example in one.get("examples", {}).items():
            assert re.fullmatch(r"[a-z-]+", name), "names are keys that every tool accepts"
            validator(one["schema"]).validate(example["value"])
            checked += 1
    assert checked > 50


def test_every_request_in_the_examples_is_one_that_the_service_takes() -> None:
    bodies = {call.body for listed in OPERATIONS.values() for call in listed if call.body}
    for kind in bodies:
        assert EXAMPLES[kind]
        for example in EXAMPLES[kind].values():
            body: object = decode_body(json.dumps(example).encode(), kind)
            if isinstance(body, ChatBody):
                check_chat(body, Settings())


def test_every_json_answer_has_an_example() -> None:
    for method, path, operation in operations():
        answers = [answer for status, answer in operation["responses"].items() if status.isdigit()]
        for one in [found for answer in answers for found in answer.get("content", {}).values()]:
            assert "examples" in one or "$ref" not in one["schema"], f"{method} {path}"


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/stream"])
def test_the_greeting_of_the_first_readme_is_an_example(path: str) -> None:
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert "안녕하세요!" in [example["value"]["message"] for example in content["examples"].values()]


def chat_refusal(**fields: Any) -> RequestFault | None:
    given = {"session_id": SESSION, "message": "x", **fields}
    try:
        check_chat(decode_body(json.dumps(given).encode(), ChatBody), SMALL)
    except RequestFault as fault:
        return fault
    return None


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"message": "가" * 23}, True),
        ({"message": "가" * 24}, False),
        ({"message": ""}, False),
        ({"max_new_tokens": 17}, True),
        ({"max_new_tokens": 18}, False),
        ({"max_new_tokens": 0}, False),
        ({"max_new_tokens": None}, True),
        ({"temperature": 2}, True),
        ({"temperature": 2.1}, False),
        ({"top_p": 0}, False),
        ({"stop": ["x"] * 9}, False),
        ({"session_id": "no-uuid"}, False),
        ({"parent_id": None}, True),
        ({"on_busy": "wait"}, False),
        ({"max_tokens": 3}, False),
    ],
    ids=str,
)
def test_the_documented_limits_of_a_chat_are_the_ones_in_force(fields: dict[str, Any], *, allowed: bool) -> None:
    documented = named("ChatBody", build_openapi_document(SMALL, "1"))
    assert documented.is_valid({"session_id": SESSION, "message": "x", **fields}) is allowed
    assert (chat_refusal(**fields) is None) is allowed


def test_the_documented_limits_of_a_session_are_the_ones_in_force() -> None:
    document = build_openapi_document(SMALL, "1")
    for name in ("CreateSessionBody", "ChangeSessionBody"):
        body = named(name, document)
        assert body.is_valid({"title": "x" * 5, "metadata": {"a": 1, "b": 2}})
        assert not body.is_valid({"title": "x" * 6})
        assert not body.is_valid({"title": ""})
        assert not body.is_valid({"metadata": {"a": 1, "b": 2, "c": 3}})
        assert "99 bytes" in document["components"]["schemas"][name]["properties"]["metadata"]["description"]
    assert not named("CreateSessionBody", document).is_valid({"system_prompt": "x" * 30})
    with pytest.raises(RequestFault):
        check_metadata({"a": 1, "b": 2, "c": 3}, SMALL)
    with pytest.raises(RequestFault):
        check_text("", "$.title", 5)


def test_the_documented_defaults_are_the_ones_in_force() -> None:
    document = build_openapi_document(SMALL, "1")
    chat = document["components"]["schemas"]["ChatBody"]["properties"]
    named = [chat[name] for name in ("max_new_tokens", "temperature", "do_sample")]
    ends = [one["description"].partition("Absent: the session's, or ")[2] for one in named]
    assert ends == ["11.", "0.3.", "false."]
    assert not any("default" in one for one in named)  # a client that filled it in would overrule the session's
    hours = document["components"]["schemas"]["CreateSessionBody"]["properties"]["timeout_hours"]
    assert hours["description"].endswith("Absent: 7.")
    assert "4321 bytes" in document["components"]["responses"]["Problem413"]["description"]


def test_schemas_say_what_generators_of_clients_would_guess() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        for field in walk(schema.get("properties", {})):
            if "enum" in field:
                assert field["type"] == "string", field
            if field.get("type") == "object":
                assert "additionalProperties" in field, field
            assert not isinstance(field.get("default"), str | int | float | bool | list), "it would make it required"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("If-Match", ["*", '"3"', 'W/"3"', '"3", "4-gzip"', '"3","4"'], ["", "3", '*, "3"']),
        ("Idempotency-Key", ["a", '"a"', "x" * 255, f'"{"x" * 255}"'], ["", "a b", '"a', "x" * 256, "ä"]),
        ("Last-Event-ID", ["", "4", "4:0"], ["x", "4:", "4:0:0"]),
    ],
)
def test_the_documented_patterns_of_headers_are_the_ones_in_force(name: str, good: list[str], bad: list[str]) -> None:
    readers: dict[str, Callable[[web.Request], object]] = {
        "If-Match": if_match,
        "Idempotency-Key": lambda request: read_idempotency_key(request, "chat", EXAMPLES[AcceptedView]["accepted"]),
        "Last-Event-ID": last_event_id,
    }
    schema = DOCUMENT["components"]["parameters"][name]["schema"]
    for value in [*good, *bad]:
        assert validator(schema).is_valid(value) is (value in good), value
        request = make_mocked_request("POST", "/api/chat", headers={name: value})
        if value in good:
            readers[name](request)
        else:
            with pytest.raises(RequestFault):
                readers[name](request)


def shown(status: int) -> dict[str, Any]:
    content = DOCUMENT["components"]["responses"][f"Problem{status}"]["content"]["application/problem+json"]
    return {name: example["value"] for name, example in content["examples"].items()}


def test_every_type_of_problem_is_shown_under_its_status() -> None:
    for status, kind, title in STATUSES.values():
        assert shown(status)[kind]["title"] == title
        assert PROBLEM_TYPES[kind].title == title, "there is a page for it"
    for cause, (status, title) in CAUSES.items():
        assert shown(status)[cause.replace("_", "-")]["title"] == title


FAULTS: list[Exception] = [
    RequestFault("must not be blank", "$.message"),
    web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]),
    web.HTTPNotFound(),
    web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2),
    internal_error(),
    Problem(504, "llm-timeout", "T", "d", partial="안", message_id="m", user_message_id="u", version=4),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_problem_is_as_documented(fault: Exception) -> None:
    problem = problem_of(fault)
    assert problem is not None
    answer = render(problem, make_mocked_request("POST", "/api/chat"))
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)
    named("ProblemView").validate(body)
    assert body.keys() <= set(ProblemView.__struct_fields__), "every member is documented"
    assert answer.content_type in DOCUMENT["components"]["responses"]["Problem"]["content"]


@pytest.mark.parametrize("status", [int(name[7:]) for name in DOCUMENT["components"]["responses"] if name[7:]])
def test_retry_after_is_documented_where_it_is_sent(status: int) -> None:
    answer = render(Problem(status, "x", "X", "x"), make_mocked_request("GET", "/"))
    documented = DOCUMENT["components"]["responses"][f"Problem{status}"]["headers"]
    assert ("Retry-After" in answer.headers) == ("Retry-After" in documented)


def test_a_new_session_says_where_it_is() -> None:
    created = DOCUMENT["paths"]["/api/sessions"]["post"]
    assert created["responses"]["201"]["headers"].keys() == {"Location", "ETag", "X-Request-ID"}
    assert created["requestBody"]["required"] is False


def test_every_answer_carries_the_request_id() -> None:
    for _, path, operation in operations():
        for answer in operation["responses"].values():
            if "$ref" not in answer:
                assert "X-Request-ID" in answer["headers"], path
    assert all("X-Request-ID" in one["headers"] for one in DOCUMENT["components"]["responses"].values())


def test_the_streamed_example_is_a_stream_of_documented_frames() -> None:
    operation = DOCUMENT["paths"]["/api/chat/stream"]["post"]
    assert transcript() in operation["description"]
    schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert schema["type"] == "string"
    assert "`Frame`" in schema["description"]
    *data, done = re.findall(r"^data: (.*)$", transcript(), re.MULTILINE)
    assert done == "[DONE]"
    for line in data:
        named("Frame").validate(json.loads(line))
    sent = [type(msgspec.json.decode(line, type=frames.Frame)) for line in data]
    assert sent == [frames.Start, frames.Chunk, frames.Complete]


def test_the_feeds_example_is_a_stream_of_documented_frames() -> None:
    operation = DOCUMENT["paths"]["/api/sessions/{session_id}/stream"]["get"]
    assert feed_transcript() in operation["description"]
    schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
    assert "`FeedFrame`" in schema["description"]
    data = re.findall(r"^data: (.*)$", feed_transcript(), re.MULTILINE)
    sent = [type(msgspec.json.decode(line, type=frames.FeedFrame)) for line in data]
    assert sent == [frames.Message, frames.Start, frames.FeedChunk, frames.Complete]
    examples = DOCUMENT["components"]["schemas"]["FeedFrame"]["examples"]
    for example in examples:
        named("FeedFrame").validate(example)
    assert {example["type"] for example in examples} == {
        kind.__struct_config__.tag for kind in get_args(frames.FeedFrame)
    }, "there is an example of each frame"
    names = {one.get("$ref", one.get("name")).rpartition("/")[2] for one in operation["parameters"]}
    assert names >= {"session_id", "after", "Last-Event-ID"}


def test_what_comes_in_other_forms_than_json_is_documented_too() -> None:
    def forms(path: str) -> set[str]:
        return set(DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"])

    assert forms("/api/sessions/{session_id}/events") == {"application/json", "application/x-ndjson"}
    assert forms("/api/events") == {"application/x-ndjson", "text/event-stream"}
    assert forms("/api/sessions/{session_id}/export") == {"application/json", "text/markdown"}


def test_calls_that_need_more_than_the_usual_scope_may_be_forbidden() -> None:
    forbidden = {path for _, path, operation in operations() if "403" in operation["responses"]}
    of_audit = {"/api/events", "/api/audit/head", "/api/audit/verify", "/api/audit/report"}
    of_erasures = {"/api/sessions/{session_id}/receipt/forget-ticket"}
    of_erasures |= {"/api/erasures", "/api/holds", "/api/holds/{hold_id}/release", "/api/holds/forget"}
    of_keys = {"/api/keys", "/api/keys/{key_name}", "/api/keys/{key_name}/rotate"}
    of_witnesses = {"/witness/add-checkpoint"}
    assert forbidden == of_audit | of_erasures | of_keys | of_witnesses
    locked = build_openapi_document(LOCKED, "1")["paths"]
    assert "403" in locked["/api/sessions"]["get"]["responses"]
    assert "403" not in locked["/api/health"]["get"]["responses"]
    assert shown(403)["forbidden"]["status"] == 403


def test_the_digests_of_the_events_in_the_examples_can_be_recomputed() -> None:
    for example in EXAMPLES[EventView].values():
        line = json.dumps(example, ensure_ascii=False, separators=(",", ":"))
        assert commitment_of(line) in (None, example["commitment"])
        assert digest_of(line, GENESIS) == example["digest"]


def test_without_keys_no_call_asks_for_one() -> None:
    assert "security" not in DOCUMENT
    assert "securitySchemes" not in DOCUMENT["components"]
    assert all("401" not in operation["responses"] for _, _, operation in operations())


def test_with_keys_every_call_asks_for_one_but_the_open_ones() -> None:
    document = build_openapi_document(LOCKED, "1")
    assert document["security"] == [{"bearer": []}, {"api_key": []}]
    assert document["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
    for _, path, operation in operations(document):
        ends = ("{file}", "/problems/{name}", "/assets/{version}/{path}", "/add-checkpoint", "/checkpoint")
        is_open = path in PUBLIC_PATHS or path.endswith(ends)
        assert (operation.get("security") == []) is is_open, path
        assert ("401" in operation["responses"]) is not is_open, path
    assert document["paths"]["/metrics"]["get"]["security"] == [{"bearer": ["metrics"]}, {"api_key": ["metrics"]}]
    either = [one["bearer"] for one in document["paths"]["/api/sessions/{session_id}/events"]["get"]["security"][::2]]
    assert either == [["audit"], ["chat"]]


def test_no_secret_is_in_the_document() -> None:
    text = json.dumps(build_openapi_document(LOCKED, "1"))
    assert SECRET not in text
    assert "alice" not in text


def test_the_document_is_the_same_each_time() -> None:
    assert json.dumps(build_openapi_document(Settings(), "1.2.3")) == json.dumps(DOCUMENT)
    assert DOCUMENT["info"]["version"] == "1.2.3"
