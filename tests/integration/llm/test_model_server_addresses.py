"""Addresses, redirects and lists of models of real kinds of servers, over real sockets."""

import json
from typing import Any

import pytest

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import Health, LlmError, LlmFailed, reason_of
from chatbot.llm.provider_factory import create_provider
from chatbot.llm.providers.openai_provider import OpenAiProvider
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import MakeProvider, ask
from tests.support.model.raw_model_server import RawServer


@pytest.fixture
def openai_server(model: ModelServer) -> ModelServer:
    model.protocols = ("openai",)
    return model


def answer(document: Any, status: str = "200 OK", headers: str = "") -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


REPLY = answer({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("path", "api_root"),
    [
        ("", "/v1"),
        ("/v1//", "/v1"),
        ("/V1", "/V1"),
        ("/api", "/api/v1"),
        ("/openai", "/openai"),
        ("/api/paas/v4", "/api/paas/v4"),
        ("/v1beta/openai/", "/v1beta/openai"),
        ("/v2/gateway", "/v2/gateway/v1"),
        ("/v1/chat/completions", "/v1"),
        ("/deployments/mine/chat/completions", "/deployments/mine"),
        ("/v1/models?api-version=1", "/v1"),
    ],
)
async def test_a_server_is_found_at_the_address_that_its_documentation_gives(
    openai_server: ModelServer, path: str, api_root: str
) -> None:
    openai_server.api_root = api_root
    provider = create_provider("auto", LlmOptions(server_url=openai_server.url + path, retries_max=0))
    assert await provider.health() == Health(available=True)
    assert (await ask(provider)).text == "You said: hello there"
    assert provider.name == "openai"
    await provider.close()


async def test_a_found_path_is_remembered(raw_server: RawServer, make_provider: MakeProvider) -> None:
    raw_server.answers = [answer({"error": "no such path"}, "404 Not Found"), REPLY, REPLY]
    provider = make_provider(OpenAiProvider, server_url=f"{raw_server.url}/openai", model="m")
    await ask(provider)
    await ask(provider)
    found = "/openai/chat/completions"
    assert [head.split()[1].decode() for head in raw_server.heads] == ["/openai/v1/chat/completions", found, found]


async def test_a_path_that_the_server_does_not_have_is_told_as_it_was_asked_first(
    openai_server: ModelServer, make_provider: MakeProvider
) -> None:
    with pytest.raises(LlmFailed, match="answered 404") as caught:
        await ask(make_provider(OpenAiProvider, server_url=f"{openai_server.url}/wrong?key=hidden", model="m"))
    assert reason_of(caught.value).endswith(f"(asked {openai_server.url}/wrong/v1/chat/completions)")


async def test_the_query_is_sent_with_each_request(raw_server: RawServer, make_provider: MakeProvider) -> None:
    raw_server.answers = [answer({"data": [{"id": "m"}]}), REPLY]
    assert (await ask(make_provider(OpenAiProvider, server_url=f"{raw_server.url}/v1?api-version=7"))).text == "hello"
    lines = [head.partition(b" HTTP/1.1")[0] for head in raw_server.heads]
    assert lines == [b"GET /v1/models?api-version=7", b"POST /v1/chat/completions?api-version=7"]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_a_redirect_to_the_same_server_keeps_method_and_body(
    raw_server: RawServer, make_provider: MakeProvider, status: str
) -> None:
    raw_server.answers = [answer(b"", status, "Location: /new/chat?x=1\r\n"), REPLY]
    assert (await ask(make_provider(OpenAiProvider, server_url=raw_server.url, model="m"))).text == "hello"
    assert raw_server.heads[1].startswith(b"POST /new/chat?x=1 ")
    assert b"Content-Length: 0" not in raw_server.heads[1]


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://elsewhere.example/v1?token=hidden", "http://elsewhere.example"),
        ("https://me:hidden@127.0.0.1/v1", "https://127.0.0.1"),
        ("//elsewhere.example:81/", "http://elsewhere.example:81"),
    ],
)
async def test_a_redirect_to_elsewhere_is_refused_with_its_target(
    raw_server: RawServer, make_provider: MakeProvider, location: str, shown: str
) -> None:
    raw_server.answers = [answer(b"", "307 Temporary", f"Location: {location}\r\n")]
    with pytest.raises(LlmFailed, match=f"answered 307: it redirects to {shown}, which is not followed") as caught:
        await ask(make_provider(OpenAiProvider, server_url=raw_server.url, model="m", api_key="secret-1"))
    assert "hidden" not in reason_of(caught.value)
    assert len(raw_server.heads) == 1


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([answer(b"", "307 Temporary", "Location: /again\r\n")] * 4, "redirects more than 3 times"),
        ([answer(b"", "303 See Other", "Location: /result\r\n")], "answered 303"),
        ([answer(b"", "307 Temporary")], "answered 307"),
        ([answer(b"", "307 Temporary", "Location: http://[x\r\n")], "redirects to no URL"),
    ],
)
async def test_redirects_without_end_or_sense_are_failures(
    raw_server: RawServer, make_provider: MakeProvider, answers: list[bytes], told: str
) -> None:
    raw_server.answers = list(answers)
    with pytest.raises(LlmFailed, match=told):
        await ask(make_provider(OpenAiProvider, server_url=raw_server.url, model="m"))


@pytest.mark.parametrize(
    ("listed", "model"),
    [
        ([{"id": "a"}], "a"),
        ({"models": [{"name": "nomic-embed-text"}, {"name": "llama3"}]}, "llama3"),
        ({"data": [{"id": f"model-{number}", "description": "x" * 1000} for number in range(2000)]}, "model-0"),
    ],
)
async def test_the_first_model_that_chats_is_asked(
    raw_server: RawServer, make_provider: MakeProvider, listed: Any, model: str
) -> None:
    raw_server.answers = [answer(listed), REPLY]
    provider = make_provider(OpenAiProvider, server_url=raw_server.url)
    await ask(provider)
    assert provider.model == model


@pytest.mark.parametrize("body", [b"<html>", b'{"ok":true}', b'{"data":7}'])
async def test_a_list_that_cannot_be_read_is_a_failure_only_where_no_model_is_configured(
    raw_server: RawServer, make_provider: MakeProvider, body: bytes
) -> None:
    raw_server.answers = [answer(body)] * 3 + [REPLY]
    health = await make_provider(OpenAiProvider, server_url=f"{raw_server.url}/v1").health()
    assert not health.available
    assert health.detail.startswith("The model server's list of models cannot be read; name a model in llm.model")
    with pytest.raises(LlmFailed, match="cannot be read"):
        await ask(make_provider(OpenAiProvider, server_url=f"{raw_server.url}/v1"))
    provider = make_provider(OpenAiProvider, server_url=f"{raw_server.url}/v1", model="mine")
    assert (await provider.health()).available
    assert (await ask(provider)).text == "hello"


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "500 Oops", "502 Bad Gateway"])
async def test_a_wrong_key_and_a_fault_make_a_server_unavailable_also_where_a_model_is_configured(
    raw_server: RawServer, make_provider: MakeProvider, status: str
) -> None:
    raw_server.answers = [answer({"error": "no"}, status)]
    health = await make_provider(OpenAiProvider, server_url=raw_server.url, model="mine").health()
    assert not health.available
    assert f"answered {status[:3]}" in health.detail
    assert health.detail.endswith(f"(asked {raw_server.url}/v1/models)")


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (b'event: error\ndata: {"message": "boom"}\n\n', "The model server failed: boom"),
        (b'event: error\ndata: {"message": "boom"}\n\ndata: [DONE]\n\n', "The model server failed: boom"),
        (b'data: {"detail": "no room"}\n\n', "The model server failed: no room"),
        (b'{"detail": "no such thing"}', "The model server's answer is malformed: no such thing"),
    ],
)
async def test_an_error_in_a_shape_of_its_own_is_told_in_its_words(
    raw_server: RawServer, make_provider: MakeProvider, events: bytes, told: str
) -> None:
    raw_server.answers = [answer(events)]
    with pytest.raises(LlmError, match=told):
        await ask(make_provider(OpenAiProvider, server_url=raw_server.url, model="m"))


@pytest.mark.parametrize(
    "overload",
    [
        b'data: {"error": {"type": "overloaded_error", "message": "Overloaded"}}\n\n',
        b'data: {"object": "error", "message": "slow down", "code": "429"}\n\n',
        b'{"error": {"code": "server_busy"}}',
        b'event: error\ndata: {"message": "server busy"}\n\n',
        b'data: {"message": "slow down", "type": "rate_limit_error"}\n\n',
    ],
)
async def test_an_overload_told_in_a_good_answer_is_tried_again(raw_server: RawServer, overload: bytes) -> None:
    raw_server.answers = [answer(overload), REPLY]
    provider = create_provider("openai", LlmOptions(server_url=raw_server.url, model="m", retry_backoff_s=0.01))
    assert (await ask(provider)).text == "hello"
    await provider.close()


async def test_a_notice_beside_a_good_reply_is_no_error(raw_server: RawServer, make_provider: MakeProvider) -> None:
    chunk = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    raw_server.answers = [answer(b'data: {"message": "queued"}\n\n' + chunk)]
    assert (await ask(make_provider(OpenAiProvider, server_url=raw_server.url, model="m"))).text == "a"
