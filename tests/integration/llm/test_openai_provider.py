"""The chat completions protocol over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import Finish, Health, LlmFailed
from chatbot.llm.providers import openai_provider
from chatbot.llm.providers.openai_provider import OpenAiProvider
from events.catalogue import Usage
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import Answer, ask

STOPPED = 'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def provider(server: ModelServer) -> AsyncIterator[OpenAiProvider]:
    provider = OpenAiProvider(LlmOptions(server_url=server.url, api_key="secret-1"))
    yield provider
    await provider.close()


async def test_a_reply_comes_with_its_usage(server: ModelServer, provider: OpenAiProvider) -> None:
    server.delay_s = 0.01
    answer = await ask(provider, "안녕 my friend")
    assert [piece for piece in answer.pieces if piece] == ["You ", "said: ", "안녕 ", "my ", "friend"]
    assert answer.finish == Finish(reason="stop", model="fake-model", usage=Usage(3, 5, 8))


async def test_usage_that_comes_after_the_finish_reason_is_waited_for(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    server.script(pieces=("a", "b"), end_delay_s=0.02)
    answer = await ask(provider, "one two three")
    assert answer.finish == Finish(reason="stop", model="fake-model", usage=Usage(3, 2, 5))


async def test_the_server_is_asked_in_its_own_words(server: ModelServer, provider: OpenAiProvider) -> None:
    await ask(provider, "hello", max_new_tokens=9, do_sample=False, top_p=0.5, stop=("x",), seed=3, model="other")
    assert server.requests[0].headers["authorization"] == "Bearer secret-1"
    assert server.requests[0].body == {
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "model": "other",
        "max_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["x"],
        "seed": 3,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_end_in_v1_or_not(server: ModelServer, ending: str) -> None:
    provider = OpenAiProvider(LlmOptions(server_url=server.url + ending))
    assert (await ask(provider)).text == "You said: hello there"
    await provider.close()


async def test_without_a_configured_model_the_first_listed_is_asked_and_remembered(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    await ask(provider)
    await ask(provider)
    assert [request.body["model"] for request in server.requests] == ["fake-model", "fake-model"]
    assert server.probes["/v1/models"] == 1
    assert provider.model == "fake-model"


async def test_a_health_check_notices_another_model(server: ModelServer, provider: OpenAiProvider) -> None:
    await ask(provider)
    server.model = "newer"
    assert await provider.health() == Health(available=True)
    assert provider.model == "newer"


async def test_an_unchanged_list_stays_the_same_object(server: ModelServer, provider: OpenAiProvider) -> None:
    """Sessions compare the names at each step, which costs half a millisecond for 10,000 of them in two objects."""
    await provider.health()
    known = provider.models
    await provider.health()
    assert provider.models is known == {"fake-model"}


async def test_a_model_that_is_gone_is_looked_up_again(server: ModelServer, provider: OpenAiProvider) -> None:
    await ask(provider)
    server.model = "newer"
    server.script(status=404, error="no such model")
    with pytest.raises(LlmFailed, match="no such model"):
        await ask(provider)
    await ask(provider)
    assert server.requests[-1].body["model"] == "newer"


async def test_a_model_that_a_client_made_up_changes_nothing_for_the_others(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    await ask(provider)
    server.script(status=404, error="no such model")
    with pytest.raises(LlmFailed, match="no such model"):
        await ask(provider, model="made-up")
    await ask(provider, model="made-up too")
    assert provider.model == "fake-model"
    assert provider.models == {"fake-model"}
    await ask(provider)
    assert server.requests[-1].body["model"] == "fake-model"
    assert server.probes["/v1/models"] == 1


async def test_a_configured_model_is_asked_and_never_replaced(server: ModelServer) -> None:
    provider = OpenAiProvider(LlmOptions(server_url=server.url, model="mine"))
    await provider.health()
    await ask(provider)
    assert server.requests[0].body["model"] == "mine"
    await provider.close()


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
        ("eos", "stop"),
    ],
)
async def test_finish_reasons(server: ModelServer, provider: OpenAiProvider, told: str, reason: str) -> None:
    server.script(pieces=("a",), finish_reason=told)
    answer = await ask(provider)
    assert answer.finish is not None
    assert answer.finish.reason == reason


async def test_a_reply_that_the_server_calls_an_error_is_a_failure(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    server.script(pieces=("a",), finish_reason="error")
    with pytest.raises(LlmFailed, match="ended the reply with an error"):
        await ask(provider)


async def test_one_json_document_despite_the_wish_for_a_stream(server: ModelServer, provider: OpenAiProvider) -> None:
    server.script(pieces=("a", "b"), plain_json=True, finish_reason="length")
    answer = await ask(provider, "one two")
    assert answer.pieces == ["ab"]
    assert answer.finish == Finish(reason="length", model="fake-model", usage=Usage(2, 2, 4))


@pytest.mark.parametrize("body", ['{"choices":[]}', "{no", "[1]", "{}"])
async def test_a_document_that_is_no_completion_is_malformed(
    server: ModelServer, provider: OpenAiProvider, body: str
) -> None:
    server.script(body=body)
    with pytest.raises(LlmFailed, match="malformed"):
        await ask(provider)


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "it broke", "code": 500}},
        {"error": "it broke"},
        {"object": "error", "message": "it broke"},
    ],
)
async def test_error_objects_in_the_stream(server: ModelServer, provider: OpenAiProvider, error: object) -> None:
    server.script(raw=f"data: {json.dumps(error)}\n\n")
    with pytest.raises(LlmFailed, match="it broke"):
        await ask(provider)


async def test_a_server_that_refuses_stream_options_is_asked_without_and_that_is_remembered(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    server.accepts_stream_options = False
    answer = await ask(provider)
    assert answer.text == "You said: hello there"
    assert answer.finish is not None
    assert answer.finish.usage is None
    await ask(provider)
    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]


async def test_another_bad_request_is_not_blamed_on_stream_options(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    server.script(status=400, error="too many tokens", times=2)
    with pytest.raises(LlmFailed, match="too many tokens"):
        await ask(provider)
    await ask(provider)
    assert "stream_options" in server.requests[-1].body


async def test_a_server_known_to_accept_stream_options_is_asked_once(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    await ask(provider)
    server.script(status=400)
    with pytest.raises(LlmFailed):
        await ask(provider)
    assert len(server.requests) == 2


@pytest.mark.parametrize("then", ["no_done", "cut", "reset", "malformed", "error"])
async def test_after_the_finish_reason_nothing_can_spoil_the_reply(
    server: ModelServer, provider: OpenAiProvider, then: str
) -> None:
    server.script(raw=STOPPED, then=then)
    answer = await ask(provider)
    assert answer.text == "a"
    assert answer.finish == Finish(reason="stop", model="fake-model")


def chunk(text: str, reason: str | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk("a", "stop"), chunk("b", "stop"), chunk("c", "stop")],
        [chunk("a"), chunk("", "stop"), chunk("b"), chunk("c")],
        [chunk("a", "stop"), chunk("", None), chunk("b"), chunk("c", "stop")],
        [chunk("a", "null"), chunk("b", ""), chunk("c", "stop")],
    ],
)
@pytest.mark.parametrize("then", ["", "data: [DONE]\n\n"])
async def test_text_after_a_finish_reason_belongs_to_the_reply(
    server: ModelServer, provider: OpenAiProvider, chunks: list[str], then: str
) -> None:
    server.script(raw="".join(chunks) + then)
    answer = await ask(provider)
    assert (answer.text, answer.finish) == ("abc", Finish("stop", "fake-model"))


async def test_such_text_may_come_later_than_any_silence_that_ends_a_reply(
    server: ModelServer, provider: OpenAiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once text has followed a finish reason, no silence after another one ends the reply."""
    monkeypatch.setattr(openai_provider, "END_SILENCE_S", 0.05)
    server.script(raw=chunk("a", "stop") + chunk("b", "stop"), then="silence")
    asking = asyncio.create_task(ask(provider))
    await server.wait_requests()
    done, _ = await asyncio.wait([asking], timeout=0.2)
    assert not done
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("then", ["cut", "reset", "malformed", "error"])
async def test_a_server_whose_finish_reasons_mean_nothing_has_to_end_its_reply_properly(
    server: ModelServer, provider: OpenAiProvider, then: str
) -> None:
    server.script(raw=chunk("a", "stop") + chunk("b", "stop"), then=then)
    answer = Answer([])
    with pytest.raises(LlmFailed):
        await ask(provider, into=answer)
    assert answer.text == "ab"


async def test_heartbeats_do_not_put_off_the_end_after_a_finish_reason(
    server: ModelServer, provider: OpenAiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_provider, "END_SILENCE_S", 0.1)
    server.script(raw=STOPPED, then="heartbeats")
    assert (await ask(provider)).text == "a"
    await server.wait_aborted()


@pytest.mark.parametrize("word", ["network_error", "insufficient_system_resource", "abort"])
async def test_a_fault_in_place_of_a_finish_reason_fails_the_reply_with_its_usage(
    server: ModelServer, provider: OpenAiProvider, word: str
) -> None:
    server.script(pieces=("a", "b"), finish_reason=word)
    answer = Answer([])
    with pytest.raises(LlmFailed, match=f"with an error: {word}") as failed:
        await ask(provider, "one two three", into=answer)
    assert answer.text == "ab"
    assert failed.value.finish == Finish("error", "fake-model", Usage(3, 2, 5), word)


async def test_a_server_that_says_nothing_after_the_finish_reason_is_not_waited_for_long(
    server: ModelServer, provider: OpenAiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_provider, "END_SILENCE_S", 0.1)
    server.script(raw=STOPPED, then="silence")
    assert (await ask(provider)).text == "a"
    await server.wait_aborted()


async def test_done_without_a_finish_reason_is_a_finished_reply(server: ModelServer, provider: OpenAiProvider) -> None:
    server.script(raw='data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n')
    assert (await ask(provider)).finish == Finish(reason="stop", model="fake-model")


async def test_thoughts_of_a_reasoning_model_are_signs_of_life_but_no_text(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    thought = 'data: {"choices":[{"delta":{"reasoning_content":"hmm","content":null}}]}\n\n'
    server.script(raw=thought + STOPPED)
    assert (await ask(provider)).text == "a"


async def test_comments_between_the_events_are_no_events(server: ModelServer, provider: OpenAiProvider) -> None:
    server.script(raw=": OPENROUTER PROCESSING\n\n" + STOPPED + ": ping\n\ndata: [DONE]\n\n")
    assert (await ask(provider)).text == "a"


async def test_health_is_whether_models_are_listed(server: ModelServer, provider: OpenAiProvider) -> None:
    assert await provider.health() == Health(available=True)
    server.status = 503
    assert (await provider.health()).detail.startswith("The model server answered 503")
    server.api_key = "another"
    refused = await provider.health()
    asked = f"(asked {server.url}/v1/models)"
    assert refused.detail == f"The model server answered 401 (key refused): wrong key {asked}"
    await server.stop()
    away = await provider.health()
    assert not away.available
    assert away.detail == f"LLM server not available: connection refused {asked}"


async def test_a_server_without_a_list_of_models_can_be_asked_for_replies(
    server: ModelServer, provider: OpenAiProvider
) -> None:
    server.status = 404
    assert await provider.health() == Health(available=True)
    await ask(provider)
    assert "model" not in server.requests[0].body
