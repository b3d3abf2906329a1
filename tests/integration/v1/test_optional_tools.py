"""Front ends offer tools with every message; a model server that takes none answers all the same."""

import uuid
from typing import Any

import pytest

from chatbot.api.v1.optional_tools import MODELS_MAX, REFUSED_FOR_S, ToolRefusals
from chatbot.api.v1.refused_tools import TOOL_REFUSALS
from tests.support.http.completion_requests import MODEL, chunks_of, complete, error_of, joined
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
REFUSAL = {"object": "error", "message": '"auto" tool choice requires --enable-auto-tool-choice to be set', "code": 400}


@pytest.fixture(autouse=True)
def forget_refusals(service: Running) -> None:
    service.app[TOOL_REFUSALS]._refused_at_s.clear()


def refuse_tools(model: ModelServer) -> None:
    model.script(status=400, body=REFUSAL)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_refuses_tools_is_asked_again_without_them(
    service: Running, model: ModelServer, *, stream: bool
) -> None:
    refuse_tools(model)
    for _ in range(2):
        answer = await complete(service, tools=[TOOL], tool_choice="auto", stream=stream)
        assert answer.status_code == 200, answer.text
        message = joined(chunks_of(answer.text)) if stream else answer.json()["choices"][0]["message"]
        assert message["content"] == "You said: Hi there"
        assert answer.headers["X-Ignored-Fields"] == "tools"
    assert "X-Ignored-Fields" not in (await complete(service)).headers
    sent = ["tools" in request.body for request in model.requests]
    assert sent == [True, False, False, False], "the refusal is remembered"


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "k"}, {"X-OpenWebUI-Message-Id": "m"}])
async def test_a_repetition_gets_the_reply_without_tools(
    service: Running, model: ModelServer, headers: dict[str, str]
) -> None:
    refuse_tools(model)
    headers = {**headers, "X-Conversation-Id": str(uuid.uuid4())}
    answers: list[Any] = []
    for _ in range(2):
        service.app[TOOL_REFUSALS]._refused_at_s.clear()
        answers.append((await complete(service, tools=[TOOL], headers=headers)).json())
    assert answers[0] == answers[1]
    assert len(model.requests) == 2


async def test_tools_that_are_required_are_refused_by_name(service: Running, model: ModelServer) -> None:
    refuse_tools(model)
    answer = await complete(service, tools=[TOOL], tool_choice="required")
    assert error_of(answer, 400)["code"] == "unsupported_parameter"
    assert len(model.requests) == 1


async def test_refusals_are_forgotten_after_a_while() -> None:
    now = [0.0]
    refusals = ToolRefusals(lambda: now[0])
    refusals.note(MODEL)
    assert refusals.has_refused(MODEL)
    assert not refusals.has_refused("other")
    now[0] = REFUSED_FOR_S
    assert not refusals.has_refused(MODEL)
    for number in range(MODELS_MAX + 1):
        refusals.note(str(number))
    assert not refusals.has_refused("0")
