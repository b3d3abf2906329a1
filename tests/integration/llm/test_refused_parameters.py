"""Servers that refuse parameters, over real sockets."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import LlmFailed
from chatbot.llm.providers.openai_provider import OpenAiProvider
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import ask

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
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def provider(server: ModelServer) -> AsyncIterator[OpenAiProvider]:
    provider = OpenAiProvider(LlmOptions(server_url=server.url, model="m"))
    yield provider
    await provider.close()


def sent(server: ModelServer) -> list[dict[str, Any]]:
    unchanging = ("messages", "stream", "model")
    return [{name: body[name] for name in body if name not in unchanging} for body in (r.body for r in server.requests)]


async def test_refused_parameters_are_learned_one_by_one_and_by_model(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    usage = {"stream_options": {"include_usage": True}}
    server.script(status=400, body={"error": TOKENS})
    server.script(status=400, body={"error": TEMPERATURE})
    answers = [
        await ask(provider, max_new_tokens=9, temperature=0.7),
        await ask(provider, max_new_tokens=8, temperature=0.7),
        await ask(provider, max_new_tokens=8),
        await ask(provider, max_new_tokens=8, temperature=0.7, model="other"),
    ]
    refused = [answer.finish.refused_parameters for answer in answers if answer.finish]
    assert refused == [("max_tokens", "temperature"), ("max_tokens", "temperature"), ("max_tokens",), ()]
    assert sent(server) == [
        {"max_tokens": 9, "temperature": 0.7, **usage},
        {"max_completion_tokens": 9, "temperature": 0.7, **usage},
        {"max_completion_tokens": 9, **usage},
        {"max_completion_tokens": 8, **usage},
        {"max_completion_tokens": 8, **usage},
        {"max_tokens": 8, "temperature": 0.7, **usage},
    ]


async def test_a_limit_of_tokens_is_never_left_out(server: ModelServer, provider: OpenAiProvider) -> None:
    server.script(status=400, body={"error": TOKENS})
    server.script(status=400, body={"error": {**TOKENS, "param": "max_completion_tokens"}})
    server.script(status=400, body={"error": {**TOKENS, "param": "max_completion_tokens"}})
    with pytest.raises(LlmFailed, match="answered 400"):
        await ask(provider, max_new_tokens=9)
    assert all("max_tokens" in body or "max_completion_tokens" in body for body in sent(server))


async def test_a_server_that_refuses_everything_is_not_asked_for_ever(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    server.script(status=400, body={"error": TEMPERATURE}, times=None)
    with pytest.raises(LlmFailed, match="answered 400"):
        await ask(provider, max_new_tokens=9, temperature=0.7)
    assert len(server.requests) == 3  # as asked, without the temperature, without stream_options


async def test_a_bad_value_is_the_clients_to_see(server: ModelServer, provider: OpenAiProvider) -> None:
    await ask(provider)
    server.script(status=400, body={"error": {"message": "temperature must be at most 1", "param": "temperature"}})
    with pytest.raises(LlmFailed, match="temperature must be at most 1"):
        await ask(provider, temperature=2)
    assert len(server.requests) == 2


async def test_what_a_failed_reply_went_without_is_not_remembered(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    server.script(status=400, body={"error": TEMPERATURE})
    server.script(status=500)
    with pytest.raises(LlmFailed, match="answered 500"):
        await ask(provider, temperature=0.7)
    await ask(provider, temperature=0.7)
    assert "temperature" in sent(server)[-1]
