"""Good answers under wrong labels: types, codings, statuses and byte order marks that say something else."""

import gzip
import zlib

import pytest

from chatbot.llm.http import http_response
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import LlmFailed
from chatbot.llm.providers.midm_provider import MidmProvider
from chatbot.llm.providers.openai_provider import OpenAiProvider
from tests.support.model.provider_client import Answer, MakeProvider, ask
from tests.support.model.raw_model_server import RawServer

TEXT = "안녕 \U0001f642!"
STREAMS = {
    "openai": f'data: {{"choices":[{{"delta":{{"content":"{TEXT}"}},"finish_reason":"stop"}}]}}\n\ndata: [DONE]\n\n',
    "midm": f'data: {{"type":"chunk","content":"{TEXT}"}}\n\ndata: {{"type":"complete"}}\n\ndata: [DONE]\n\n',
}
DOCUMENTS = {
    "openai": f'{{"choices":[{{"message":{{"content":"{TEXT}"}},"finish_reason":"stop"}}]}}',
    "midm": f'{{"response":"{TEXT}","usage":null}}',
}
BOM = b"\xef\xbb\xbf"


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.fixture(params=["openai", "midm"])
def provider(
    request: pytest.FixtureRequest, raw_server: RawServer, make_provider: MakeProvider
) -> OpenAiProvider | MidmProvider:
    if request.param == "openai":
        return make_provider(OpenAiProvider, server_url=raw_server.url, model="m")
    return make_provider(MidmProvider, server_url=raw_server.url, model="m")


@pytest.mark.parametrize("body", [STREAMS, DOCUMENTS], ids=["stream", "document"])
@pytest.mark.parametrize(
    "label", ["", "text/event-stream", "application/json", "text/plain; charset=latin-1", "Text/Event-Stream;x=1", "?"]
)
async def test_the_first_bytes_tell_a_stream_from_a_document(
    raw_server: RawServer, provider: OpenAiProvider | MidmProvider, body: dict[str, str], label: str
) -> None:
    data = body[provider.name].encode()
    headers = [f"Content-Type: {label}"] if label else []
    raw_server.answers = [http(data, *headers), http(BOM + data, *headers), http(b" \r\n\n" + data, *headers)]
    assert [(await ask(provider)).text for _ in range(3)] == [TEXT] * 3
    assert raw_server.accepted == 1


@pytest.mark.parametrize("body", [STREAMS, DOCUMENTS], ids=["stream", "document"])
async def test_however_the_network_cuts_an_answer_it_is_the_same(
    raw_server: RawServer, provider: OpenAiProvider | MidmProvider, body: dict[str, str]
) -> None:
    data = BOM + body[provider.name].encode().replace(b"\n", b"\r\n")
    raw_server.step_bytes = 1
    raw_server.answers = [http(data), http(gzip.compress(data), "Content-Encoding: gzip")]
    assert [(await ask(provider)).text for _ in range(2)] == [TEXT] * 2


@pytest.mark.parametrize("body", [STREAMS, DOCUMENTS], ids=["stream", "document"])
async def test_a_body_that_is_compressed_unasked_is_read(
    raw_server: RawServer, provider: OpenAiProvider | MidmProvider, body: dict[str, str]
) -> None:
    data = body[provider.name].encode()
    raw_server.answers = [
        http(gzip.compress(data), "Content-Encoding: gzip"),
        http(gzip.compress(data)),
        http(zlib.compress(data), "Content-Encoding: deflate"),
        http(deflate(data), "Content-Encoding: deflate"),
        http(data, "Content-Encoding: gzip"),
    ]
    assert [(await ask(provider)).text for _ in range(5)] == [TEXT] * 5


async def test_a_coding_that_we_cannot_read_is_named(raw_server: RawServer, provider: OpenAiProvider) -> None:
    raw_server.answers = [http(b"\x0b\x02\x80" + bytes(20), "Content-Encoding: br")]
    with pytest.raises(LlmFailed, match="compressed as 'br'"):
        await ask(provider)


@pytest.mark.parametrize("status", ["201 Created", "202 Accepted", "203 Non-Authoritative Information", "299 Odd"])
async def test_any_status_of_success_is_one(
    raw_server: RawServer, provider: OpenAiProvider | MidmProvider, status: str
) -> None:
    raw_server.answers = [http(STREAMS[provider.name].encode(), status=status)]
    assert (await ask(provider)).text == TEXT


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "cut before its end"),
        (b"<html>Welcome</html>", "malformed"),
        (b"[1]", "malformed"),
        (b'{"choices":', "malformed"),
        (b" " * 5000, "malformed|cut"),
    ],
)
@pytest.mark.parametrize("label", ["text/event-stream", "application/json"])
async def test_what_is_neither_is_a_failure(
    raw_server: RawServer, provider: OpenAiProvider | MidmProvider, body: bytes, fault: str, label: str
) -> None:
    raw_server.answers = [http(body, f"Content-Type: {label}")] * 2  # midm is then asked for a whole reply
    with pytest.raises(LlmFailed, match=fault):
        await ask(provider)


async def test_a_document_is_bounded_under_any_label(
    raw_server: RawServer, provider: OpenAiProvider | MidmProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_response, "DOCUMENT_REST_BYTES", -1_199_000)
    packed = gzip.compress(b'{"choices":' + b" " * 10_000)
    raw_server.answers = [http(packed, "Content-Type: text/event-stream", "Content-Encoding: gzip")]
    with pytest.raises(LlmFailed, match="exceeds 1000 bytes"):
        await ask(provider)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"no \xff room"}}',
        BOM + b'{"detail":"no \\ud83d room"}',
        gzip.compress(b'"no \xff room"', mtime=0),
    ],
)
async def test_the_body_of_a_refusal_is_read_as_leniently(
    raw_server: RawServer, provider: OpenAiProvider | MidmProvider, body: bytes
) -> None:
    raw_server.answers = [http(body, status="400 Bad Request")] * 2
    with pytest.raises(LlmFailed, match="answered 400: no \ufffd room"):
        await ask(provider)


async def test_a_list_of_models_after_a_byte_order_mark_is_a_list(raw_server: RawServer) -> None:
    provider = OpenAiProvider(LlmOptions(server_url=raw_server.url))
    raw_server.answers = [http(gzip.compress(BOM + b'{"data":[{"id":"large"}]}'), status="203 Non-Authoritative")]
    assert (await provider.health()).available
    assert provider.model == "large"
    await provider.close()


@pytest.mark.parametrize("beat", [b"", b" ", b"ping", b"[]", b": comment", b"null", b"{}", b'{"type":"ping"}'])
async def test_heartbeats_in_midms_stream_are_passed_over(raw_server: RawServer, beat: bytes) -> None:
    provider = MidmProvider(LlmOptions(server_url=raw_server.url))
    chunk = b'data: {"type":"chunk","content":%b,"message":null,"total_tokens":"?"}\r\n\r\n'
    body = chunk % b'"\xec\x95"' + b"data: %b\r\r" % beat + chunk % b'"\x88 \\ud83d"' + chunk % b'[{"text":"\\ude42"}]'
    raw_server.answers = [http(body + b"data: [DONE] \n\n")]
    assert (await ask(provider)).text == "안 \U0001f642"
    await provider.close()


HALVES = {
    "openai": b'data: {"choices":[{"delta":{"content":"Hi \\ud83d"}}]}\n\n%bdata: [DONE]\n\n',
    "midm": b'data: {"type":"chunk","content":"Hi \\ud83d"}\n\n%bdata: [DONE]\n\n',
}
CLEAN = {
    "openai": b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',
    "midm": b'data: {"type":"chunk","content":"x"}\n\n',
}


async def test_half_a_character_without_its_other_half_is_replaced_where_it_stood(
    raw_server: RawServer, provider: OpenAiProvider | MidmProvider
) -> None:
    half = HALVES[provider.name]
    raw_server.answers = [http(half % b""), http(half % CLEAN[provider.name])]
    assert [(await ask(provider)).text for _ in range(2)] == ["Hi \ufffd", "Hi \ufffdx"]


@pytest.mark.parametrize("chunk", [b'{"type":"chunk","content":7}', b'{"type":"chunk","content"', b'{"type":[]}'])
async def test_what_may_have_been_midms_text_fails_the_reply(raw_server: RawServer, chunk: bytes) -> None:
    provider, answer = MidmProvider(LlmOptions(server_url=raw_server.url)), Answer([])
    raw_server.answers = [http(b'data: {"type":"chunk","content":"a"}\n\ndata: %b\n\ndata: [DONE]\n\n' % chunk)]
    with pytest.raises(LlmFailed, match="malformed"):
        await ask(provider, into=answer)
    assert answer.text == "a"
    await provider.close()
