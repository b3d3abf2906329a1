"""The midm protocol over a real socket."""

import asyncio
import gc
import time
import weakref

import pytest

from chatbot.llm.provider import ChatMessage, Finish, Health, LlmFailed, LlmUnavailable, TextSink
from chatbot.llm.providers import midm_provider
from chatbot.llm.providers.midm_provider import MidmProvider
from events.catalogue import Parameters, Usage
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import Answer, MakeProvider, ask


@pytest.fixture
def provider(model: ModelServer, make_provider: MakeProvider) -> MidmProvider:
    return make_provider(MidmProvider, server_url=model.url)


async def test_a_reply_comes_in_pieces_and_is_finished(model: ModelServer, provider: MidmProvider) -> None:
    model.delay_s = 0.01
    answer = await ask(provider, "안녕 my friend")
    assert answer.pieces == ["You ", "said: ", "안녕 ", "my ", "friend"]
    assert answer.finish == Finish(reason="stop", model="midm", usage=None)


async def test_the_server_is_asked_in_its_own_words(model: ModelServer, provider: MidmProvider) -> None:
    await ask(provider, "hello", max_new_tokens=9, temperature=0.5, do_sample=True, top_p=0.5)
    assert model.requests[0].path == "/chat/stream"
    assert model.requests[0].body == {
        "messages": [{"role": "user", "content": "hello"}],
        "max_new_tokens": 9,
        "temperature": 0.5,
        "do_sample": True,
    }


async def test_pieces_that_arrive_together_come_as_one(model: ModelServer, provider: MidmProvider) -> None:
    chunks = "".join(f'data: {{"type":"chunk","content":"{each}"}}\n\n' for each in "abc")
    model.script(raw=chunks + 'data: {"type":"complete","total_tokens":3}\n\ndata: [DONE]\n\n')
    assert (await ask(provider)).pieces == ["abc"]


async def test_as_many_pieces_as_tokens_were_allowed_means_cut_for_length(
    model: ModelServer, provider: MidmProvider
) -> None:
    model.script(pieces=("a", "b", "c"))
    answer = await ask(provider, max_new_tokens=3)
    assert answer.finish is not None
    assert answer.finish.reason == "length"


async def test_a_reply_that_is_complete_needs_no_done(model: ModelServer, provider: MidmProvider) -> None:
    model.script(pieces=("a",), then="no_done")
    assert (await ask(provider)).text == "a"


@pytest.mark.parametrize("then", ["", "data: [DONE]\n\n", "data: [DONE] \n\n"])
async def test_text_after_the_end_that_a_server_names_belongs_to_the_reply(
    model: ModelServer, provider: MidmProvider, then: str
) -> None:
    chunk, complete = 'data: {"type":"chunk","content":"a"}\n\n', 'data: {"type":"complete","total_tokens":2}\n\n'
    model.script(raw=chunk + complete + chunk + complete + then)
    answer = await ask(provider, max_new_tokens=2)
    assert (answer.text, answer.finish) == ("aa", Finish("length", "midm"))


async def test_text_after_that_end_needs_an_end_of_its_own(model: ModelServer, provider: MidmProvider) -> None:
    chunk = 'data: {"type":"chunk","content":"a"}\n\n'
    model.script(raw=chunk + 'data: {"type":"complete"}\n\n' + chunk)
    answer = Answer([])
    with pytest.raises(LlmFailed, match="cut before its end"):
        await ask(provider, into=answer)
    assert answer.text == "aa"


@pytest.mark.parametrize("then", ["silence", "cut", "reset", "error", "malformed", "heartbeats"])
async def test_after_that_end_nothing_can_spoil_the_reply(
    model: ModelServer, provider: MidmProvider, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(midm_provider, "END_SILENCE_S", 0.05)
    model.script(raw='data: {"type":"chunk","content":"a"}\n\ndata: {"type":"complete"}\n\n', then=then)
    assert (await ask(provider)).text == "a"


async def test_an_error_in_the_stream_fails_the_reply_and_keeps_its_text(
    model: ModelServer, provider: MidmProvider
) -> None:
    model.script(pieces=("a", "b"), delay_s=0.01, then="error", error="CUDA out of memory")
    answer = Answer([])
    with pytest.raises(LlmFailed, match="CUDA out of memory"):
        await ask(provider, into=answer)
    assert answer.text == "ab"


async def test_a_server_that_cannot_stream_is_asked_for_the_whole_reply(
    model: ModelServer, provider: MidmProvider
) -> None:
    model.streams = False
    answer = await ask(provider, "hello you")
    assert answer.pieces == ["You said: hello you"]
    assert answer.finish == Finish(reason="stop", model="midm", usage=Usage(2, 4, 6))


async def test_that_a_server_cannot_stream_is_remembered_for_a_while(
    model: ModelServer, provider: MidmProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.streams = False
    await ask(provider)
    await ask(provider)
    assert [request.path for request in model.requests] == ["/chat/stream", "/chat", "/chat"]
    monkeypatch.setattr(time, "monotonic", lambda: provider._no_stream_until_s + 1)
    model.streams = True
    assert len((await ask(provider)).pieces) >= 1
    assert model.requests[-1].path == "/chat/stream"


async def test_while_a_whole_reply_is_written_there_are_signs_of_life(
    model: ModelServer, provider: MidmProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(midm_provider, "KEEPALIVE_PIECE_S", 0.02)
    model.streams = False
    model.script(pieces=("a",), first_delay_s=1.0)
    answer = await ask(provider)
    assert answer.pieces[-1] == "a"
    assert answer.pieces[:3] == ["", "", ""]


class TextConsumer:
    """Something that a reply holds."""

    def on_text(self, piece: str) -> None: ...


async def test_a_whole_reply_is_freed_without_the_collector(model: ModelServer, provider: MidmProvider) -> None:
    model.streams = False
    heard = TextConsumer()
    left = weakref.ref(heard)
    gc.disable()
    try:
        await provider.stream((ChatMessage("user", "hello"),), Parameters(), TextSink(heard.on_text), stream=False)
        del heard
        assert left() is None
    finally:
        gc.enable()


async def test_leaving_while_a_whole_reply_is_written_closes_the_connection(
    model: ModelServer, provider: MidmProvider
) -> None:
    model.streams = False
    model.script(pieces=("a",), first_delay_s=5)
    reading = asyncio.create_task(ask(provider))
    await model.wait_requests(2)
    reading.cancel()
    await model.wait_aborted()


async def test_a_server_without_the_streaming_route_is_asked_for_the_whole_reply(
    model: ModelServer, provider: MidmProvider
) -> None:
    model.script(status=404)
    model.script(pieces=("a",))
    assert (await ask(provider)).text == "a"
    assert model.requests[-1].path == "/chat"


@pytest.mark.parametrize("body", ['{"response": null}', "{no JSON", "[]", '{"response": 7}'])
async def test_nonsense_for_a_whole_reply_is_a_failure(model: ModelServer, provider: MidmProvider, body: str) -> None:
    model.streams = False
    model.script(body=body)
    with pytest.raises(LlmFailed, match="malformed"):
        await ask(provider)


async def test_a_whole_reply_without_usage_is_a_reply(model: ModelServer, provider: MidmProvider) -> None:
    model.streams = False
    model.script(pieces=("a",), usage=False)
    answer = await ask(provider)
    assert answer.finish is not None
    assert answer.finish.usage is None


async def test_health_is_whether_the_model_is_loaded(model: ModelServer, provider: MidmProvider) -> None:
    assert await provider.health() == Health(available=True)
    model.model_loaded = False
    assert await provider.health() == Health(available=False, detail="The model is not loaded", loading=True)
    await model.stop()
    away = await provider.health()
    assert not away.available
    assert away.detail == f"LLM server not available: connection refused (asked {model.url}/health)"


async def test_a_failure_for_want_of_a_model_is_told_as_unavailable(model: ModelServer, provider: MidmProvider) -> None:
    model.script(status=500, times=2)
    with pytest.raises(LlmFailed, match="500"):
        await ask(provider)
    model.model_loaded = False
    with pytest.raises(LlmUnavailable, match="not loaded"):
        await ask(provider)


async def test_a_growing_accumulated_field_is_not_read(model: ModelServer, provider: MidmProvider) -> None:
    """Its value is not even looked at: here it is no text at all."""
    model.script(raw='data: {"type":"chunk","content":"a","accumulated":[1]}\n\ndata: [DONE]\n\n')
    assert (await ask(provider)).text == "a"
