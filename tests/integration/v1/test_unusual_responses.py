"""Responses that a newer program has recorded, and conversations that do not fit into the model's context."""

import asyncio
from typing import Any

import pytest

from chatbot.api.openai_responses import response_requests
from tests.integration.v1.test_responses import MODEL, respond, stream
from tests.support.http.completion_requests import error_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEWER_RULE = 99


async def test_a_stream_by_an_unknown_rule_is_refused_and_the_response_shown(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"Idempotency-Key": "by-a-newer-program"}
    body = {"model": MODEL, "input": "Hi there", "stream": False}
    with monkeypatch.context() as newer:
        newer.setattr(response_requests, "DELTA_RULE", NEWER_RULE)
        response = (await service.client.post("/v1/responses", json=body, headers=key)).json()
    url = f"/v1/responses/{response['id']}"
    for after in ("-1", "3"):
        refused = await service.client.get(url, params={"stream": "true", "starting_after": after})
        error = error_of(refused, 503)
        assert (error["code"], error["type"]) == ("node_outdated", "server_error")
        assert str(NEWER_RULE) in error["message"]
        assert refused.headers["X-Should-Retry"] == "false"
    assert (await service.client.get(url)).json() == response
    assert response["output"][0]["content"][0]["text"] == "You said: Hi there"
    again = await respond(service, "And now?", previous_response_id=response["id"])
    assert again["status"] == "completed"


@pytest.fixture
def small_context(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model takes some 100 tokens, of which a reply is to have a few."""
    monkeypatch.setattr(service.services.provider, "context_tokens", lambda _model: 100)


async def long_conversation(service: Running) -> str:
    items = [
        {"role": role, "content": f"{number} " + "x" * 60} for number, role in enumerate(("user", "assistant") * 6)
    ]
    made = await service.client.post("/v1/conversations", json={"items": items})
    return str(made.json()["id"])


@pytest.mark.usefixtures("small_context")
@pytest.mark.parametrize("fields", [{}, {"truncation": "disabled"}])
async def test_a_conversation_that_is_too_long_is_refused(
    service: Running, model: ModelServer, fields: dict[str, Any]
) -> None:
    conversation = await long_conversation(service)
    body = {"model": MODEL, "input": "Newest.", "conversation": conversation, "max_output_tokens": 16, **fields}
    for is_streamed in (False, True):
        answer = await service.client.post("/v1/responses", json={**body, "stream": is_streamed})
        assert error_of(answer, 400)["code"] == "context_length_exceeded"
    assert model.requests == []
    items = (await service.client.get(f"/v1/conversations/{conversation}/items")).json()["data"]
    assert len(items) == 12, "nothing was recorded"


@pytest.mark.usefixtures("small_context")
async def test_the_oldest_messages_are_left_out_with_truncation_auto(service: Running, model: ModelServer) -> None:
    conversation = await long_conversation(service)
    fields: dict[str, Any] = {"conversation": conversation, "max_output_tokens": 16, "truncation": "auto"}
    response = await respond(service, "Newest.", **fields, instructions="Be short.")
    sent = [one["content"].split(" x")[0] for one in model.requests[-1].body["messages"]]
    assert sent == ["Be short.", "10", "11", "Newest."]
    assert response["truncation"] == "auto"
    assert (await stream(service, "Newest.", **fields))[-1]["response"]["status"] == "completed"
    items = (await service.client.get(f"/v1/conversations/{conversation}/items?order=asc")).json()["data"]
    assert len(items) == 16, "all of it is kept"


@pytest.mark.parametrize("path", ["responses", "responses/input_tokens"])
async def test_instructions_that_are_too_long_are_refused(service: Running, path: str) -> None:
    too_long = "x" * (service.services.settings.v1.message_max_chars + 1)
    body = {"model": MODEL, "input": "Hi", "instructions": too_long}
    assert error_of(await service.client.post(f"/v1/{path}", json=body), 400)["param"] == "instructions"


async def test_a_response_that_is_not_stored_is_refused_while_the_previous_one_is_written(
    service: Running, model: ModelServer
) -> None:
    model.script(pieces=("One ", "two"), hold_after=1)
    begun = await service.client.post("/v1/responses", json={"model": MODEL, "input": "Count.", "background": True})
    await model.wait_requests(1)
    body = {"model": MODEL, "input": "Go on.", "previous_response_id": begun.json()["id"], "store": False}
    refused = await service.client.post("/v1/responses", json=body)
    assert error_of(refused, 409)["code"] == "session_busy"
    assert len(model.requests) == 1, "the model was not asked without the previous response"
    model.release()
    async with asyncio.timeout(10):
        while (answer := await service.client.post("/v1/responses", json=body)).status_code == 409:
            await asyncio.sleep(0.05)
    assert answer.status_code == 200
    sent = [one["content"] for one in model.requests[-1].body["messages"]]
    assert sent == ["Count.", "One two", "Go on."]
