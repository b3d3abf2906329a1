"""Model servers that speak HTTP oddly, byte by byte over real sockets."""

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from chatbot.llm.http import http_client as pool
from chatbot.llm.http.http_connection import HttpConnection
from chatbot.llm.http.read_coalescer import ReadCoalescer
from chatbot.llm.provider import (
    ChatMessage,
    LlmError,
    LlmFailed,
    TextSink,
)
from chatbot.llm.providers.openai_provider import OpenAiProvider
from events.catalogue import Parameters
from tests.support.model.provider_client import MakeProvider
from tests.support.model.raw_model_server import RawServer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
NESTED = b"[" * 5000 + b"]" * 5000


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content: str, finish: str | None = None) -> bytes:
    reason = f',"finish_reason":"{finish}"' if finish else ""
    return chunk(f'data: {{"choices":[{{"delta":{{"content":"{content}"}}{reason}}}]}}\n\n'.encode())


DONE = chunk(b"data: [DONE]\n\n")
WHOLE = HEAD + b"\r\n" + event("a") + event("b", "stop") + DONE + b"0\r\n\r\n"


@pytest.fixture
def provider(raw_server: RawServer, make_provider: MakeProvider) -> OpenAiProvider:
    return make_provider(OpenAiProvider, server_url=raw_server.url, model="m")


async def ask(provider: OpenAiProvider, on_text: Callable[[str], object] | None = None) -> str:
    pieces: list[str] = []

    def listen(piece: str) -> None:
        pieces.append(piece)
        if on_text is not None:
            on_text(piece)

    async with asyncio.timeout(10):
        await provider.stream((ChatMessage("user", "hi"),), Parameters(), TextSink(listen))
    return "".join(pieces)


async def test_what_comes_before_the_answer_and_after_it_changes_nothing(
    raw_server: RawServer, provider: OpenAiProvider
) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Type: text/html\r\n\r\n"
    trailer = WHOLE.removesuffix(b"\r\n") + b"Content-Type: text/html\r\nX-Sum: 1\r\n\r\n"
    raw_server.answers = [early + WHOLE, trailer, WHOLE]
    assert [await ask(provider) for _ in range(3)] == ["ab"] * 3
    assert raw_server.accepted == 1


@pytest.mark.parametrize(
    "start",
    [HEAD, HEAD + b"\r\n" + event("a") + b"0\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["head", "trailers", "hints"],
)
async def test_lines_without_end_are_cut_off(raw_server: RawServer, provider: OpenAiProvider, start: bytes) -> None:
    raw_server.answers = [start]
    raw_server.flood = b"X-More: " + b"x" * 8000 + b"\r\n" if not start.endswith(b"Continue\r\n\r\n") else start
    with pytest.raises(LlmFailed, match="cut before its end"):
        await ask(provider)
    async with asyncio.timeout(5):
        await raw_server.left.wait()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello",
        b"not HTTP at all\r\n\r\n",
        HEAD + b"\r\nzz\r\n",
    ],
    ids=["upgrade", "nonsense", "chunk"],
)
async def test_what_is_no_answer_is_a_failure_and_never_used_again(
    raw_server: RawServer, provider: OpenAiProvider, answer: bytes
) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    raw_server.answers = [answer, WHOLE]
    with pytest.raises(LlmError):
        await ask(provider)
    assert await ask(provider) == "ab"
    assert raw_server.accepted == 2
    assert faults == []


async def test_text_after_a_finish_reason_may_come_in_a_read_of_its_own(
    raw_server: RawServer, provider: OpenAiProvider
) -> None:
    raw_server.step_bytes = 40  # less than an event
    raw_server.answers = [HEAD + b"\r\n" + event("a", "stop") + event("b", "stop") + event("c") + DONE + b"0\r\n\r\n"]
    assert await ask(provider) == "abc"


async def test_a_second_answer_that_nobody_asked_for_costs_the_connection_not_the_reply(
    raw_server: RawServer, provider: OpenAiProvider
) -> None:
    raw_server.answers = [WHOLE + WHOLE, WHOLE]
    assert await ask(provider) == "ab"
    assert await ask(provider) == "ab"
    assert raw_server.accepted == 2


@pytest.mark.parametrize("status", [b"200 OK", b"500 No"])
async def test_what_is_nested_too_deeply_is_a_failure_like_any_nonsense(
    raw_server: RawServer, provider: OpenAiProvider, status: bytes
) -> None:
    body = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(NESTED),
        NESTED,
    )
    raw_server.answers = [body] * 3
    with pytest.raises(LlmFailed):
        await ask(provider)
    # A list that nobody can read matters as little as none, for a model is configured.
    assert (await provider.health()).available is (status == b"200 OK")


async def test_usage_that_is_nested_too_deeply_costs_only_the_usage(
    raw_server: RawServer, provider: OpenAiProvider
) -> None:
    usage = chunk(b'data: {"choices":[],"usage":' + NESTED + b"}\n\n")
    raw_server.answers = [HEAD + b"\r\n" + event("a", "stop") + usage + DONE + b"0\r\n\r\n"]
    assert await ask(provider) == "a"


async def test_a_connection_that_was_idle_for_too_long_is_not_used(
    raw_server: RawServer, provider: OpenAiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_server.answers = [WHOLE] * 3
    await ask(provider)
    await ask(provider)
    monkeypatch.setattr(pool, "KEEPALIVE_S", 0.0)
    await ask(provider)
    assert raw_server.accepted == 2


class TextConsumer:
    """Something that a reply holds."""

    def on_text(self, piece: str) -> None: ...


async def test_an_idle_connection_holds_nothing_of_the_reply_that_it_brought(
    raw_server: RawServer, provider: OpenAiProvider
) -> None:
    raw_server.answers = [WHOLE]
    heard = TextConsumer()
    left = weakref.ref(heard)
    await ask(provider, heard.on_text)
    del heard
    assert left() is None


async def test_a_closed_connection_is_freed_without_the_collector(
    raw_server: RawServer, provider: OpenAiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = HEAD + b"Connection: close\r\n\r\n" + event("a", "stop") + DONE + b"0\r\n\r\n"
    raw_server.answers = [closing]
    wires: list[weakref.ref[object]] = []

    def watch(beat: ReadCoalescer) -> HttpConnection:
        wire = HttpConnection(beat)
        wires.append(weakref.ref(wire))
        return wire

    monkeypatch.setattr("chatbot.llm.http.http_client.HttpConnection", watch)
    gc.disable()
    try:
        await ask(provider)
        await asyncio.sleep(0.05)
        assert [wire() for wire in wires] == [None]
    finally:
        gc.enable()
