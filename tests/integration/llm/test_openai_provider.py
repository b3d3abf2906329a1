"""The chat completions protocol over a real socket."""

import asyncio
import json

import pytest

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import Finish, Health, LlmFailed
from chatbot.llm.providers import openai_provider
from chatbot.llm.providers.openai_provider import OpenAiProvider
from events.catalogue import Usage
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import Answer, MakeProvider, ask

STOPPED = 'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'


@pytest.fixture
def provider(model: ModelServer, make_provider: MakeProvider) -> OpenAiProvider:
    return make_provider(OpenAiProvider, server_url=model.url, api_key="secret-1")


async def test_a_reply_comes_with_its_usage(model: ModelServer, provider: OpenAiProvider) -> None:
    model.delay_s = 0.01
    answer = await ask(provider, "안녕 my friend")
    assert [piece for piece in answer.pieces if piece] == ["You ", "said: ", "안녕 ", "my ", "friend"]
    assert answer.finish == Finish(reason="stop", model="fake-model", usage=Usage(3, 5, 8))


async def test_usage_that_comes_after_the_finish_reason_is_waited_for(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    model.script(pieces=("a", "b"), end_delay_s=0.02)
    answer = await ask(provider, "one two three")
    assert answer.finish == Finish(reason="stop", model="fake-model", usage=Usage(3, 2, 5))


async def test_the_server_is_asked_in_its_own_words(model: ModelServer, provider: OpenAiProvider) -> None:
    await ask(provider, "hello", max_new_tokens=9, do_sample=False, top_p=0.5, stop=("x",), seed=3, model="other")
    assert model.requests[0].headers["authorization"] == "Bearer secret-1"
    assert model.requests[0].body == {
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
async def test_the_address_may_end_in_v1_or_not(model: ModelServer, ending: str) -> None:
    provider = OpenAiProvider(LlmOptions(server_url=model.url + ending))
    assert (await ask(provider)).text == "You said: hello there"
    await provider.close()


async def test_without_a_configured_model_the_first_listed_is_asked_and_remembered(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    await ask(provider)
    await ask(provider)
    assert [request.body["model"] for request in model.requests] == ["fake-model", "fake-model"]
    assert model.probes["/v1/models"] == 1
    assert provider.model == "fake-model"


async def test_a_health_check_notices_another_model(model: ModelServer, provider: OpenAiProvider) -> None:
    await ask(provider)
    model.model = "newer"
    assert await provider.health() == Health(available=True)
    assert provider.model == "newer"


async def test_an_unchanged_list_stays_the_same_object(model: ModelServer, provider: OpenAiProvider) -> None:
    """Sessions compare the names at each step, which costs half a millisecond for 10,000 of them in two objects."""
    await provider.health()
    known = provider.models
    await provider.health()
    assert provider.models is known == {"fake-model"}


async def test_a_model_that_is_gone_is_looked_up_again(model: ModelServer, provider: OpenAiProvider) -> None:
    await ask(provider)
    model.model = "newer"
    model.script(status=404, error="no such model")
    with pytest.raises(LlmFailed, match="no such model"):
        await ask(provider)
    await ask(provider)
    assert model.requests[-1].body["model"] == "newer"


async def test_a_model_that_a_client_made_up_changes_nothing_for_the_others(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    await ask(provider)
    model.script(status=404, error="no such model")
    with pytest.raises(LlmFailed, match="no such model"):
        await ask(provider, model="made-up")
    await ask(provider, model="made-up too")
    assert provider.model == "fake-model"
    assert provider.models == {"fake-model"}
    await ask(provider)
    assert model.requests[-1].body["model"] == "fake-model"
    assert model.probes["/v1/models"] == 1


async def test_a_configured_model_is_asked_and_never_replaced(model: ModelServer) -> None:
    provider = OpenAiProvider(LlmOptions(server_url=model.url, model="mine"))
    await provider.health()
    await ask(provider)
    assert model.requests[0].body["model"] == "mine"
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
async def test_finish_reasons(model: ModelServer, provider: OpenAiProvider, told: str, reason: str) -> None:
    model.script(pieces=("a",), finish_reason=told)
    answer = await ask(provider)
    assert answer.finish is not None
    assert answer.finish.reason == reason


async def test_a_reply_that_the_server_calls_an_error_is_a_failure(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    model.script(pieces=("a",), finish_reason="error")
    with pytest.raises(LlmFailed, match="ended the reply with an error"):
        await ask(provider)


async def test_one_json_document_despite_the_wish_for_a_stream(model: ModelServer, provider: OpenAiProvider) -> None:
    model.script(pieces=("a", "b"), plain_json=True, finish_reason="length")
    answer = await ask(provider, "one two")
    assert answer.pieces == ["ab"]
    assert answer.finish == Finish(reason="length", model="fake-model", usage=Usage(2, 2, 4))


@pytest.mark.parametrize("body", ['{"choices":[]}', "{no", "[1]", "{}"])
async def test_a_document_that_is_no_completion_is_malformed(
    model: ModelServer, provider: OpenAiProvider, body: str
) -> None:
    model.script(body=body)
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
async def test_error_objects_in_the_stream(model: ModelServer, provider: OpenAiProvider, error: object) -> None:
    model.script(raw=f"data: {json.dumps(error)}\n\n")
    with pytest.raises(LlmFailed, match="it broke"):
        await ask(provider)


async def test_a_server_that_refuses_stream_options_is_asked_without_and_that_is_remembered(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    model.accepts_stream_options = False
    answer = await ask(provider)
    assert answer.text == "You said: hello there"
    assert answer.finish is not None
    assert answer.finish.usage is None
    await ask(provider)
    assert ["stream_options" in request.body for request in model.requests] == [True, False, False]


async def test_another_bad_request_is_not_blamed_on_stream_options(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    model.script(status=400, error="too many tokens", times=2)
    with pytest.raises(LlmFailed, match="too many tokens"):
        await ask(provider)
    await ask(provider)
    assert "stream_options" in model.requests[-1].body


async def test_a_server_known_to_accept_stream_options_is_asked_once(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    await ask(provider)
    model.script(status=400)
    with pytest.raises(LlmFailed):
        await ask(provider)
    assert len(model.requests) == 2


@pytest.mark.parametrize("then", ["no_done", "cut", "reset", "malformed", "error"])
async def test_after_the_finish_reason_nothing_can_spoil_the_reply(
    model: ModelServer, provider: OpenAiProvider, then: str
) -> None:
    model.script(raw=STOPPED, then=then)
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
    model: ModelServer, provider: OpenAiProvider, chunks: list[str], then: str
) -> None:
    model.script(raw="".join(chunks) + then)
    answer = await ask(provider)
    assert (answer.text, answer.finish) == ("abc", Finish("stop", "fake-model"))


async def test_such_text_may_come_later_than_any_silence_that_ends_a_reply(
    model: ModelServer, provider: OpenAiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once text has followed a finish reason, no silence after another one ends the reply."""
    monkeypatch.setattr(openai_provider, "END_SILENCE_S", 0.05)
    model.script(raw=chunk("a", "stop") + chunk("b", "stop"), then="silence")
    asking = asyncio.create_task(ask(provider))
    await model.wait_requests()
    done, _ = await asyncio.wait([asking], timeout=0.2)
    assert not done
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("then", ["cut", "reset", "malformed", "error"])
async def test_a_server_whose_finish_reasons_mean_nothing_has_to_end_its_reply_properly(
    model: ModelServer, provider: OpenAiProvider, then: str
) -> None:
    model.script(raw=chunk("a", "stop") + chunk("b", "stop"), then=then)
    answer = Answer([])
    with pytest.raises(LlmFailed):
        await ask(provider, into=answer)
    assert answer.text == "ab"


async def test_heartbeats_do_not_put_off_the_end_after_a_finish_reason(
    model: ModelServer, provider: OpenAiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_provider, "END_SILENCE_S", 0.1)
    model.script(raw=STOPPED, then="heartbeats")
    assert (await ask(provider)).text == "a"
    await model.wait_aborted()


@pytest.mark.parametrize("word", ["network_error", "insufficient_system_resource", "abort"])
async def test_a_fault_in_place_of_a_finish_reason_fails_the_reply_with_its_usage(
    model: ModelServer, provider: OpenAiProvider, word: str
) -> None:
    model.script(pieces=("a", "b"), finish_reason=word)
    answer = Answer([])
    with pytest.raises(LlmFailed, match=f"with an error: {word}") as failed:
        await ask(provider, "one two three", into=answer)
    assert answer.text == "ab"
    assert failed.value.finish == Finish("error", "fake-model", Usage(3, 2, 5), word)


async def test_a_server_that_says_nothing_after_the_finish_reason_is_not_waited_for_long(
    model: ModelServer, provider: OpenAiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_provider, "END_SILENCE_S", 0.1)
    model.script(raw=STOPPED, then="silence")
    assert (await ask(provider)).text == "a"
    await model.wait_aborted()


async def test_done_without_a_finish_reason_is_a_finished_reply(model: ModelServer, provider: OpenAiProvider) -> None:
    model.script(raw='data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n')
    assert (await ask(provider)).finish == Finish(reason="stop", model="fake-model")


async def test_thoughts_of_a_reasoning_model_are_signs_of_life_but_no_text(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    thought = 'data: {"choices":[{"delta":{"reasoning_content":"hmm","content":null}}]}\n\n'
    model.script(raw=thought + STOPPED)
    assert (await ask(provider)).text == "a"


async def test_comments_between_the_events_are_no_events(model: ModelServer, provider: OpenAiProvider) -> None:
    model.script(raw=": OPENROUTER PROCESSING\n\n" + STOPPED + ": ping\n\ndata: [DONE]\n\n")
    assert (await ask(provider)).text == "a"


async def test_health_is_whether_models_are_listed(model: ModelServer, provider: OpenAiProvider) -> None:
    assert await provider.health() == Health(available=True)
    model.status = 503
    assert (await provider.health()).detail.startswith("The model server answered 503")
    model.api_key = "another"
    refused = await provider.health()
    asked = f"(asked {model.url}/v1/models)"
    assert refused.detail == f"The model server answered 401 (key refused): wrong key {asked}"
    await model.stop()
    away = await provider.health()
    assert not away.available
    assert away.detail == f"LLM server not available: connection refused {asked}"


async def test_a_server_without_a_list_of_models_can_be_asked_for_replies(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    model.status = 404
    assert await provider.health() == Health(available=True)
    await ask(provider)
    assert "model" not in model.requests[0].body
