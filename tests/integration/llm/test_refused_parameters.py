"""Servers that refuse parameters, over real sockets."""

from typing import Any

import pytest

from chatbot.llm.provider import LlmFailed
from chatbot.llm.providers.openai_provider import OpenAiProvider
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import MakeProvider, ask

TOKENS = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
    "param": "max_tokens",
    "code": "unsupported_parameter",
}
TEMPERATURE = {
    "message": "Unsupported value: 'temperature' does not support 0.7 with this model.",
    "param": "temperature",
    "code": "unsupported_value",
}


@pytest.fixture
def provider(model: ModelServer, make_provider: MakeProvider) -> OpenAiProvider:
    return make_provider(OpenAiProvider, server_url=model.url, model="m")


def sent(model: ModelServer) -> list[dict[str, Any]]:
    unchanging = ("messages", "stream", "model")
    return [{name: body[name] for name in body if name not in unchanging} for body in (r.body for r in model.requests)]


async def test_refused_parameters_are_learned_one_by_one_and_by_model(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    usage = {"stream_options": {"include_usage": True}}
    model.script(status=400, body={"error": TOKENS})
    model.script(status=400, body={"error": TEMPERATURE})
    answers = [
        await ask(provider, max_new_tokens=9, temperature=0.7),
        await ask(provider, max_new_tokens=8, temperature=0.7),
        await ask(provider, max_new_tokens=8),
        await ask(provider, max_new_tokens=8, temperature=0.7, model="other"),
    ]
    refused = [answer.finish.refused_parameters for answer in answers if answer.finish]
    assert refused == [("max_tokens", "temperature"), ("max_tokens", "temperature"), ("max_tokens",), ()]
    assert sent(model) == [
        {"max_tokens": 9, "temperature": 0.7, **usage},
        {"max_completion_tokens": 9, "temperature": 0.7, **usage},
        {"max_completion_tokens": 9, **usage},
        {"max_completion_tokens": 8, **usage},
        {"max_completion_tokens": 8, **usage},
        {"max_tokens": 8, "temperature": 0.7, **usage},
    ]


async def test_a_limit_of_tokens_is_never_left_out(model: ModelServer, provider: OpenAiProvider) -> None:
    model.script(status=400, body={"error": TOKENS})
    model.script(status=400, body={"error": {**TOKENS, "param": "max_completion_tokens"}})
    model.script(status=400, body={"error": {**TOKENS, "param": "max_completion_tokens"}})
    with pytest.raises(LlmFailed, match="answered 400"):
        await ask(provider, max_new_tokens=9)
    assert all("max_tokens" in body or "max_completion_tokens" in body for body in sent(model))


async def test_a_server_that_refuses_everything_is_not_asked_for_ever(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    model.script(status=400, body={"error": TEMPERATURE}, times=None)
    with pytest.raises(LlmFailed, match="answered 400"):
        await ask(provider, max_new_tokens=9, temperature=0.7)
    assert len(model.requests) == 3  # as asked, without the temperature, without stream_options


async def test_a_bad_value_is_the_clients_to_see(model: ModelServer, provider: OpenAiProvider) -> None:
    await ask(provider)
    model.script(status=400, body={"error": {"message": "temperature must be at most 1", "param": "temperature"}})
    with pytest.raises(LlmFailed, match="temperature must be at most 1"):
        await ask(provider, temperature=2)
    assert len(model.requests) == 2


async def test_what_a_failed_reply_went_without_is_not_remembered(model: ModelServer, provider: OpenAiProvider) -> None:
    model.script(status=400, body={"error": TEMPERATURE})
    model.script(status=500)
    with pytest.raises(LlmFailed, match="answered 500"):
        await ask(provider, temperature=0.7)
    await ask(provider, temperature=0.7)
    assert "temperature" in sent(model)[-1]
