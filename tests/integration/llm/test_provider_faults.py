"""Every way in which a model server can fail, over real sockets, for both protocols, as the service sees it."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from chatbot.llm.http import http_response
from chatbot.llm.provider import LlmError, LlmFailed, LlmOverloaded, LlmTimeout, LlmUnavailable, Provider
from chatbot.llm.provider_factory import create_provider
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import Answer, MakeProvider, ask

Make = Callable[..., Provider]


@pytest.fixture(params=["midm", "openai"])
def make(request: pytest.FixtureRequest, model: ModelServer, make_provider: MakeProvider) -> Make:
    """Makes providers of both protocols for `model`, with a few options changed."""
    defaults = {"server_url": model.url, "retries_max": 0, "retry_backoff_s": 0.01, "model": "m"}
    return lambda **options: make_provider(partial(create_provider, request.param), **{**defaults, **options})


@pytest.mark.parametrize("then", ["end", "cut", "reset"])
async def test_a_reply_that_is_cut_is_a_failure_that_keeps_its_text(model: ModelServer, make: Make, then: str) -> None:
    model.script(pieces=("a", "b"), delay_s=0.01, then=then)
    answer = Answer([])
    with pytest.raises(LlmFailed, match="cut before its end"):
        await ask(make(), into=answer)
    assert answer.text == "ab"


@pytest.mark.parametrize(
    ("then", "told"),
    [("malformed", "malformed"), ("error", "scripted failure"), ("long_line", "exceeds 1048576 bytes")],
)
async def test_nonsense_in_the_stream_is_a_failure(model: ModelServer, make: Make, then: str, told: str) -> None:
    model.script(pieces=("a",), delay_s=0.01, then=then)
    with pytest.raises(LlmFailed, match=told):
        await ask(make())


@pytest.mark.parametrize(
    "raw", ["data: \xff\n\n", "data: []\n\n", "data: null\n\n", 'data: {"choices":7,"type":7}\n\n']
)
async def test_any_other_nonsense_is_a_failure_too(model: ModelServer, make: Make, raw: str) -> None:
    model.script(raw=raw)
    with pytest.raises(LlmFailed, match=r"malformed|cut before its end"):
        await ask(make())


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, LlmFailed), (401, LlmFailed), (429, LlmOverloaded), (500, LlmFailed), (503, LlmUnavailable)],
)
async def test_a_refusal_is_told_with_its_status_and_reason(
    model: ModelServer, make: Make, status: int, error: type[LlmError]
) -> None:
    model.script(status=status, error="because", times=2)
    with pytest.raises(error, match=rf"{status}( \(key refused\))?: because"):
        await ask(make())


async def test_a_refusal_that_quotes_our_key_does_not_spread_it(model: ModelServer, make: Make) -> None:
    model.script(status=401, body={"error": {"message": "bad key secret-1!"}}, times=2)
    with pytest.raises(LlmFailed) as caught:
        await ask(make(api_key="secret-1"))
    assert "bad key ***!" in str(caught.value)


async def test_an_empty_reply_is_a_failure(model: ModelServer, make: Make) -> None:
    model.script(pieces=())
    with pytest.raises(LlmFailed, match="empty reply"):
        await ask(make())


async def test_a_server_that_is_not_there_is_unavailable(model: ModelServer, make: Make) -> None:
    await model.stop()
    with pytest.raises(LlmUnavailable, match="LLM server not available") as caught:
        await ask(make())
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("address", ["http://model-server.invalid:8000", "http://me:word@127.0.0.1:9", "nonsense"])
async def test_an_address_that_cannot_be_asked_is_unavailable(make: Make, address: str) -> None:
    with pytest.raises(LlmUnavailable, match="LLM server not available"):
        await ask(make(server_url=address, api_key="secret-1"))


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """The port of a listener that takes no more connections: connecting to it hangs."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_connection_that_hangs_is_unavailable_after_its_timeout(make: Make) -> None:
    with full_backlog() as port:
        started = time.monotonic()
        with pytest.raises(LlmUnavailable, match="LLM server not available"):
            await ask(make(server_url=f"http://127.0.0.1:{port}", connect_timeout_s=0.2))
        assert 0.15 < time.monotonic() - started < 3


async def test_silence_before_the_first_piece_is_a_timeout_and_closes_the_connection(
    model: ModelServer, make: Make
) -> None:
    model.script(pieces=("a",), first_delay_s=5)
    with pytest.raises(LlmTimeout, match=r"silent for 0\.5 s"):
        await ask(make(first_token_timeout_s=0.5, retries_max=2))
    await model.wait_aborted()
    assert len(model.requests) == 1


async def test_silence_between_pieces_is_a_timeout_that_keeps_the_text(model: ModelServer, make: Make) -> None:
    model.script(pieces=("a",), then="silence")
    answer = Answer([])
    with pytest.raises(LlmTimeout):
        await ask(make(between_tokens_timeout_s=0.1), into=answer)
    assert answer.text == "a"
    await model.wait_aborted()


async def test_an_endless_reply_ends_at_its_time_limit(model: ModelServer, make: Make) -> None:
    model.script(pieces=("a",) * 1000, delay_s=0.01)
    with pytest.raises(LlmTimeout, match="longer than"):
        await ask(make(reply_timeout_s=1.0))
    await model.wait_aborted()


async def test_an_endless_reply_ends_at_its_length(model: ModelServer, make: Make) -> None:
    model.script(pieces=("abc",) * 1000, delay_s=0.001)
    answer = await ask(make(reply_max_chars=10))
    assert answer.text == "abcabcabca"
    assert answer.finish is not None
    assert answer.finish.reason == "length"
    await model.wait_aborted()


@pytest.mark.parametrize("first_delay_s", [0.0, 5.0])
async def test_cancelling_the_reader_is_seen_by_the_server_at_once(
    model: ModelServer, make: Make, first_delay_s: float
) -> None:
    model.script(pieces=("a",), first_delay_s=first_delay_s, then="silence")
    reading = asyncio.create_task(ask(make()))
    await model.wait_requests()
    await asyncio.sleep(0.05)
    cancelled_at = time.monotonic()
    reading.cancel()
    await model.wait_aborted()
    seen_at = model.aborted[0].aborted_at
    assert seen_at is not None
    assert seen_at - cancelled_at < 2, "long before the model would have said more"
    assert reading.cancelled() or await asyncio.gather(reading, return_exceptions=True)


async def test_before_the_first_piece_a_failing_server_is_asked_again(model: ModelServer, make: Make) -> None:
    for status in (503, 500, 429):
        model.script(status=status)
    assert (await ask(make(retries_max=3))).text == "You said: hello there"
    assert len(model.requests) == 4


async def test_a_cut_reply_is_never_asked_for_again(model: ModelServer, make: Make) -> None:
    model.script(pieces=("a",), delay_s=0.01, then="cut")
    with pytest.raises(LlmFailed):
        await ask(make(retries_max=3))
    assert len(model.requests) == 1


async def test_a_server_that_comes_up_meanwhile_gives_the_reply(model: ModelServer, make: Make) -> None:
    await model.stop()
    reading = asyncio.create_task(ask(make(retries_max=3, retry_backoff_s=0.2)))
    await asyncio.sleep(0.1)
    await model.start()
    assert (await reading).text == "You said: hello there"


@pytest.mark.parametrize("end_delay_s", [0.0, 0.01])
async def test_finished_replies_share_one_connection(
    model: ModelServer, make: Make, end_delay_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_response, "END_WAIT_S", 5.0)
    model.script(times=None, end_delay_s=end_delay_s)
    provider = make()
    for _ in range(5):
        await ask(provider)
    assert len(model.requests) == 5
    assert model.accepted == 1


async def test_a_connection_that_the_server_closed_after_a_reply_costs_no_failure(
    model: ModelServer, make: Make
) -> None:
    provider = make()
    model.closes_after_reply = True
    for _ in range(5):
        assert (await ask(provider)).text == "You said: hello there"
    assert len(model.requests) == 5


async def test_an_answer_that_ends_before_it_begins_is_a_failure_and_not_asked_again(
    model: ModelServer, make: Make
) -> None:
    model.script(status=0)
    with pytest.raises(LlmFailed, match="cut before its end"):
        await ask(make(retries_max=3))
    assert len(model.requests) == 1


async def test_many_replies_at_once_do_not_mix(model: ModelServer, make: Make) -> None:
    model.delay_s = 0.001
    provider = make()
    answers = await asyncio.gather(*(ask(provider, f"number {number}") for number in range(50)))
    assert [answer.text for answer in answers] == [f"You said: number {number}" for number in range(50)]


async def test_health_does_not_wait_for_a_server_that_hangs(make: Make) -> None:
    with full_backlog() as port:
        provider = make(server_url=f"http://127.0.0.1:{port}", health_timeout_s=0.1)
        started = time.monotonic()
        assert (await provider.health()).available is False
        assert time.monotonic() - started < 2.5, "not the 5 seconds that a reply's connection may take"


async def test_a_closed_provider_is_unavailable(make: Make) -> None:
    provider = make()
    await ask(provider)
    await provider.close()
    with pytest.raises(LlmUnavailable):
        await ask(provider)
