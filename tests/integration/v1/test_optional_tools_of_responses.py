"""A model server that takes no tools answers requests for responses that have optional ones all the same."""

from typing import Any

import pytest

from chatbot.api.v1.refused_tools import TOOL_REFUSALS
from tests.integration.v1.test_optional_tools import refuse_tools
from tests.integration.v1.test_responses import MODEL, WEATHER, read_events
from tests.support.http.completion_requests import error_of
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(autouse=True)
def forget_refusals(service: Running) -> None:
    service.app[TOOL_REFUSALS]._refused_at_s.clear()


async def respond(service: Running, headers: dict[str, str] | None = None, **fields: Any) -> tuple[dict[str, Any], str]:
    """The response, and the fields that were ignored."""
    body = {"model": MODEL, "input": "Hi there", "tools": [WEATHER], **fields}
    answer = await service.client.post("/v1/responses", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    response = read_events(answer)[-1]["response"] if fields.get("stream") else answer.json()
    return response, answer.headers.get("X-Ignored-Fields", "")


def texts(model: ModelServer) -> list[list[str]]:
    """What the model server was sent, request by request."""
    return [[one["content"] for one in request.body["messages"]] for request in model.requests]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_refuses_tools_is_asked_again_without_them(
    service: Running, model: ModelServer, *, stream: bool
) -> None:
    refuse_tools(model)
    for _ in range(2):
        response, ignored = await respond(service, stream=stream, tool_choice="auto", instructions="Be short.")
        assert response["output"][0]["content"][0]["text"] == "You said: Hi there"
        assert (response["status"], response["instructions"], ignored) == ("completed", "Be short.", "tools")
        assert (await service.client.get(f"/v1/responses/{response['id']}")).json() == response
    assert ["tools" in request.body for request in model.requests] == [True, False, False], "it is remembered"
    assert texts(model) == [["Be short.", "Hi there"]] * 3


async def test_the_second_attempt_has_the_place_of_the_first(service: Running, model: ModelServer) -> None:
    conversation = (await service.client.post("/v1/conversations")).json()["id"]
    first, _ = await respond(service, conversation=conversation, tools=[])
    for place in ({"conversation": conversation}, {"previous_response_id": first["id"]}):
        service.app[TOOL_REFUSALS]._refused_at_s.clear()
        model.requests.clear()
        refuse_tools(model)
        response, ignored = await respond(service, **place, input="And now?")
        assert ignored == "tools"
        assert texts(model) == [["Hi there", "You said: Hi there", "And now?"]] * 2
        assert response["previous_response_id"] == place.get("previous_response_id")
        items = (await service.client.get(f"/v1/responses/{response['id']}/input_items")).json()["data"]
        assert [item["content"][0]["text"] for item in items] == ["And now?"]


async def test_a_repetition_gets_the_response_without_tools(service: Running, model: ModelServer) -> None:
    refuse_tools(model)
    answers = []
    for _ in range(2):
        service.app[TOOL_REFUSALS]._refused_at_s.clear()
        answers.append(await respond(service, {"Idempotency-Key": "without-tools"}))
    assert answers[0] == answers[1]
    assert len(model.requests) == 2


@pytest.mark.parametrize("is_kept", [True, False])
async def test_nothing_of_the_refused_attempt_is_left(service: Running, model: ModelServer, *, is_kept: bool) -> None:
    refuse_tools(model)
    response, _ = await respond(service, store=is_kept)
    if is_kept:
        assert (await service.client.delete(f"/v1/responses/{response['id']}")).status_code == 200
    assert (await service.client.get(f"/v1/conversations/conv_{response['id'][5:37]}")).status_code == 404


async def test_tools_that_are_required_are_refused_by_name(service: Running, model: ModelServer) -> None:
    refuse_tools(model)
    body = {"model": MODEL, "input": "Hi", "tools": [WEATHER], "tool_choice": "required"}
    answer = await service.client.post("/v1/responses", json=body)
    assert error_of(answer, 400)["code"] == "unsupported_parameter"
    assert len(model.requests) == 1


async def test_a_response_in_the_background_fails_and_the_next_one_has_no_tools(
    service: Running, model: ModelServer
) -> None:
    refuse_tools(model)
    made, _ = await respond(service, background=True)
    followed = await service.client.get(f"/v1/responses/{made['id']}?stream=true")
    assert read_events(followed)[-1]["response"]["status"] == "failed"
    response, ignored = await respond(service)
    assert (response["status"], ignored) == ("completed", "tools")
