"""The way to a model server: proxies, TLS, several addresses of a name, and what is told where it leads nowhere."""

import asyncio
import base64
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatbot.llm.http import connector
from chatbot.llm.http.connector import Connector
from chatbot.llm.http.server_address import parse_address
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import LlmError, LlmUnavailable, reason_of
from chatbot.llm.providers.openai_provider import OpenAiProvider
from tests.support.model.http_proxy import HttpProxy
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import ask
from tests.support.model.raw_model_server import RawServer
from tests.support.programs.certificates import make_certificates

BODY = b'{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    return make_certificates(tmp_path, "model.test", "127.0.0.1")


@pytest.fixture
async def tls_server(certificates: tuple[Path, ssl.SSLContext]) -> AsyncIterator[RawServer]:
    raw = RawServer()
    raw.answers = [REPLY] * 3
    async with raw.listening(tls=certificates[1]):
        yield raw


async def ask_once(**options: Any) -> str:
    provider = OpenAiProvider(LlmOptions(model="m", **options))
    try:
        return (await ask(provider)).text
    finally:
        await provider.close()


async def failure_of(**options: Any) -> str:
    with pytest.raises(LlmError) as caught:
        await ask_once(**options)
    return reason_of(caught.value)


async def test_a_proxy_is_asked_for_the_whole_url(model: ModelServer) -> None:
    async with HttpProxy(model.port) as proxy:
        url = f"http://me:p%40ss@127.0.0.1:{proxy.port}"
        assert await ask_once(server_url="http://model.test:8000", proxy=url) == "You said: hello there"
        (head,) = proxy.heads
        assert head.startswith(b"POST http://model.test:8000/v1/chat/completions HTTP/1.1\r\nHost: model.test:8000\r\n")
        assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:p@ss") in head


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
async def test_the_environments_proxy_is_used_unless_it_excepts_the_server(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with HttpProxy(model.port) as proxy:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await ask_once(server_url="http://model.test")
        await ask_once(server_url=model.url)
        assert len(proxy.heads) == 1
        monkeypatch.setenv("NO_PROXY", "model.test")
        assert "name was not found" in await failure_of(server_url="http://model.test")


async def test_a_tls_server_is_reached_through_a_tunnel(
    tls_server: RawServer, certificates: tuple[Path, ssl.SSLContext]
) -> None:
    port = int(tls_server.url.rpartition(":")[2])
    async with HttpProxy(port) as proxy:
        options = {"proxy": f"http://me:word@127.0.0.1:{proxy.port}", "ca_file": str(certificates[0])}
        assert await ask_once(server_url="https://model.test", **options) == "hello"
        assert proxy.heads[0].startswith(b"CONNECT model.test:443 HTTP/1.1\r\nHost: model.test:443\r\n")
        assert b"Proxy-Authorization" in proxy.heads[0]
        assert b"Proxy-Authorization" not in tls_server.heads[0]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answered 407 (its name and password are wrong or"),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", "the proxy answered 503"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the proxy's answer is no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000, "the proxy's answer is no HTTP answer"),
        (b"HTTP/1.1 2", "the proxy's answer is no HTTP answer"),
    ],
)
async def test_a_proxy_that_refuses_is_told_without_its_password(model: ModelServer, answer: bytes, told: str) -> None:
    async with HttpProxy(model.port) as proxy:
        proxy.refuses = answer
        url = f"http://me:hidden@127.0.0.1:{proxy.port}"
        reason = await failure_of(server_url="https://model.test", proxy=url)
    assert told in reason
    assert f"https://model.test:443/v1/chat/completions through the proxy http://127.0.0.1:{proxy.port})" in reason
    assert "hidden" not in reason


async def test_a_proxy_that_is_not_there_is_told(model: ModelServer) -> None:
    await model.stop()
    reason = await failure_of(server_url="http://model.test", proxy=f"http://127.0.0.1:{model.port}")
    assert "the proxy cannot be reached: connection refused" in reason


@pytest.mark.parametrize("proxy", ["socks5://proxy", "https://proxy"])
async def test_a_proxy_of_another_kind_is_told(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert "a proxy must be named as http://" in await failure_of(server_url="http://model.test")


async def test_a_certificate_of_an_unknown_authority_is_refused_and_told(tls_server: RawServer) -> None:
    reason = await failure_of(server_url=tls_server.url)
    assert "its TLS certificate is not accepted (" in reason
    assert reason.endswith(f"(asked {tls_server.url}/v1/chat/completions)")


async def test_the_authority_may_be_named_by_setting(
    tls_server: RawServer, certificates: tuple[Path, ssl.SSLContext]
) -> None:
    assert await ask_once(server_url=tls_server.url, ca_file=str(certificates[0])) == "hello"


async def test_the_authority_may_be_named_by_ssl_cert_file(
    tls_server: RawServer, certificates: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates[0]))
    assert await ask_once(server_url=tls_server.url) == "hello"


@pytest.mark.parametrize(("content", "told"), [(None, "No such file"), ("nonsense", "it holds no certificate in PEM")])
async def test_an_authority_that_cannot_be_read_is_told(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    assert f"llm.ca_file cannot be read: {told}" in await failure_of(
        server_url="https://127.0.0.1:9", ca_file=str(path)
    )


async def test_tls_with_a_server_that_has_none_is_told() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as plain:
        url = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}"
        assert "TLS failed (" in await failure_of(server_url=url)


async def test_a_name_that_does_not_exist_is_told() -> None:
    reason = await failure_of(server_url="http://model-server.invalid:8000/v1")
    assert "the host's name was not found (" in reason
    assert reason.endswith("(asked http://model-server.invalid:8000/v1/chat/completions)")


async def test_the_next_address_of_a_name_is_tried_where_the_first_is_silent(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address is one to which connecting never ends."""
    loop = asyncio.get_running_loop()
    silent = ("127.0.0.9", model.port)
    really_connect = loop.sock_connect

    async def resolve(*_: object, **__: object) -> list[Any]:
        there = ("127.0.0.1", model.port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (silent, there)]

    async def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        if address == silent:
            await asyncio.Event().wait()
        await really_connect(sock, address)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "sock_connect", connect)
    monkeypatch.setattr(connector, "HAPPY_EYEBALLS_DELAY_S", 0.01)
    assert await ask_once(server_url=f"http://model.test:{model.port}") == "You said: hello there"


async def test_refusals_of_several_addresses_are_one_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(connector, "start_connection", refuse)
    way = Connector(parse_address("http://127.0.0.1:9", ""), "", "", {})
    with pytest.raises(LlmUnavailable) as caught:
        await way.connect(lambda: pytest.fail("no connection was made"), 1.0)
    assert reason_of(caught.value) == "LLM server not available: No route to host"
