"""The provider for `auto`: which protocol a server speaks, found out whenever the server is there."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from chatbot.llm.connection import Connection
from chatbot.llm.create import create_provider
from chatbot.llm.detect import detect
from chatbot.llm.errors import LlmFailed, LlmUnavailable, reason_of
from chatbot.llm.options import LlmOptions
from chatbot.llm.protocol import Health, Provider
from tests.support.model_client import ask
from tests.support.model_server import ModelServer


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def connection(server: ModelServer) -> AsyncIterator[Connection]:
    connection = Connection(LlmOptions(server_url=server.url))
    yield connection
    await connection.close()


@pytest.fixture
async def provider(server: ModelServer) -> AsyncIterator[Provider]:
    provider = create_provider("auto", LlmOptions(server_url=server.url, retries_max=0))
    yield provider
    await provider.close()


@pytest.mark.parametrize(("protocols", "kind"), [(("midm",), "midm"), (("openai",), "openai")])
async def test_a_server_is_known_by_what_it_answers(
    server: ModelServer, connection: Connection, protocols: tuple[str, ...], kind: str
) -> None:
    server.protocols = protocols
    assert await detect(connection) == kind


async def test_a_server_that_lists_no_models_speaks_openai_where_a_model_is_configured(
    server: ModelServer, connection: Connection
) -> None:
    server.protocols = ()
    with pytest.raises(LlmFailed, match="answered 404"):
        await detect(connection)
    connection.options = replace(connection.options, model="mine")
    assert await detect(connection) == "openai"


async def test_midm_is_known_while_its_model_is_still_loading(server: ModelServer, connection: Connection) -> None:
    server.model_loaded = False
    assert await detect(connection) == "midm"


async def test_a_server_that_wants_a_key_for_its_models_speaks_openai(
    server: ModelServer, connection: Connection
) -> None:
    server.api_key = "another"
    assert await detect(connection) == "openai"


async def test_a_server_that_is_down_is_not_known_yet(server: ModelServer, connection: Connection) -> None:
    await server.stop()
    with pytest.raises(LlmUnavailable) as caught:
        await detect(connection)
    assert reason_of(caught.value) == f"LLM server not available: connection refused (asked {server.url}/v1/models)"


async def test_a_server_that_fails_is_not_known_yet(server: ModelServer, connection: Connection) -> None:
    server.status = 500
    with pytest.raises(LlmFailed, match="answered 500"):
        await detect(connection)


@pytest.mark.parametrize("kind", ["midm", "openai"])
async def test_the_first_reply_finds_the_protocol_out(server: ModelServer, provider: Provider, kind: str) -> None:
    server.protocols = (kind,)
    assert (await ask(provider)).text == "You said: hello there"
    assert provider.name == kind


async def test_the_server_may_come_up_later(server: ModelServer, provider: Provider) -> None:
    server.protocols = ("openai",)
    await server.stop()
    with pytest.raises(LlmUnavailable, match="LLM server not available"):
        await ask(provider)
    away = f"LLM server not available: connection refused (asked {server.url}/v1/models)"
    assert await provider.health() == Health(available=False, detail=away)
    await server.start()
    assert await provider.health() == Health(available=True)
    assert (await ask(provider)).text == "You said: hello there"


async def test_what_is_known_is_not_asked_again(server: ModelServer, provider: Provider) -> None:
    await ask(provider)
    await ask(provider)
    assert server.probes["/health"] == 1
