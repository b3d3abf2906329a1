"""Errors under /v1 have the form of OpenAI's API, whatever part of the service refuses the request."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.http.completion_requests import complete, completion_body, data_lines, error_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "invalid_value"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"top_p": "x"}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "invalid_value"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
    ],
    ids=str,
)
async def test_an_invalid_request_is_400_with_the_field_at_fault(
    service: Running, model: ModelServer, fields: dict[str, Any], param: str, code: str
) -> None:
    body = {name: value for name, value in completion_body(**fields).items() if name != "model" or value}
    error = error_of(await complete(service, json=body), 400)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert "$" not in error["message"]
    assert model.requests == []


@pytest.mark.parametrize(
    ("part", "param", "word"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}, "image_url.url", "data:"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "image_url.url", "accepted are"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "type", "text and images"),
        ({"type": "file", "file": {"file_id": "x"}}, "type", "text and images"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "type", "text and images"),
        ({"type": "hologram"}, "type", "hologram"),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else "",
)
async def test_files_other_than_images_in_the_request_are_refused(
    service: Running, part: dict[str, Any], param: str, word: str
) -> None:
    body = completion_body(messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, part]}])
    answer = await complete(service, json=body)
    error = error_of(answer, 415 if word == "accepted are" else 400)
    assert error["param"] == f"messages[0].content[1].{param}"
    assert word in error["message"]


async def test_an_unknown_model_is_404(service: Running) -> None:
    for answer in (await complete(service, model="gpt-x"), await service.client.get("/v1/models/gpt-x")):
        error = error_of(answer, 404)
        assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")


async def test_refusals_of_every_layer_have_this_form(service: Running) -> None:
    client = service.client
    assert error_of(await client.get("/v1/nothing"), 404)["code"] == "unknown_url"
    assert error_of(await client.get("/v1"), 404)["code"] == "unknown_url"
    not_allowed = await client.get("/v1/chat/completions")
    assert error_of(not_allowed, 405)["code"] == "method_not_supported"
    assert not_allowed.headers["allow"] == "POST"
    plain = await client.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert error_of(plain, 415)["code"] == "invalid_content_type"
    packed = await client.post("/v1/chat/completions", content=b"{}", headers={"Content-Encoding": "gzip"})
    assert error_of(packed, 415)["code"] == "content_encoding"
    headers = {"Content-Type": "application/json"}
    broken = await client.post("/v1/chat/completions", content=b"{", headers=headers)
    assert error_of(broken, 400)["code"] == "invalid_json"
    foreign = await client.post("/v1/chat/completions", json={}, headers={"Origin": "https://evil.example"})
    assert error_of(foreign, 403)["code"] == "origin_not_allowed"
    expecting = await client.post("/v1/chat/completions", json={}, headers={"Expect": "200-ok"})
    assert error_of(expecting, 417)["code"] == "expectation_failed"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_fails_before_its_first_text_has_a_status(
    service: Running, model: ModelServer, *, stream: bool
) -> None:
    for _ in range(5):
        model.script(status=500)
    answer = await complete(service, stream=stream)
    error = error_of(answer, 502)
    assert (error["type"], error["code"]) == ("server_error", "llm_failed")
    assert answer.headers["x-should-retry"] == "true"
    assert "scripted" not in error["message"]


async def test_an_overloaded_model_server_is_503_with_the_time_to_wait(service: Running, model: ModelServer) -> None:
    for _ in range(5):
        model.script(status=503, headers={"Retry-After": "0"})
    answer = await complete(service, stream=True)
    assert error_of(answer, 503)["type"] == "server_error"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-should-retry"] == "true"


async def test_an_error_in_the_middle_of_a_stream_is_an_object_that_clients_raise(
    service: Running, model: ModelServer
) -> None:
    model.script(pieces=("Hel", "lo"), then="cut", delay_s=0.01)
    answer = await complete(service, stream=True)
    assert answer.status_code == 200
    *chunks, last = data_lines(answer.text)
    assert "Hel" in "".join(chunks)
    assert '"finish_reason":"' not in "".join(chunks)
    assert last.startswith('{"error":{"message":')
    assert '"code":"llm_failed"' in last or '"code":"llm_unavailable"' in last


async def test_a_fault_of_the_service_reveals_nothing(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:

    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a private detail")

    monkeypatch.setattr("chatbot.api.routes.completion_routes.check_completion", fail)
    with capture_logs():
        answer = await complete(service)
    error = error_of(answer, 500)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "private" not in answer.text
    assert answer.headers["x-should-retry"] == "false"


async def test_problems_elsewhere_stay_problems(service: Running) -> None:
    answer = await service.client.get("/v1x")
    assert answer.headers["content-type"] == "application/problem+json"
