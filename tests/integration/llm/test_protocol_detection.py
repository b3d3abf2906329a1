"""The provider for `auto`: which protocol a server speaks, found out whenever the server is there."""

from collections.abc import AsyncIterator
from functools import partial

import pytest
from msgspec.structs import replace

from chatbot.llm.http.http_client import HttpClient
from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import Health, LlmFailed, LlmUnavailable, Provider, reason_of
from chatbot.llm.provider_factory import create_provider
from chatbot.llm.providers.autodetect import detect_protocol
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import MakeProvider, ask


@pytest.fixture
async def connection(model: ModelServer) -> AsyncIterator[HttpClient]:
    connection = HttpClient(LlmOptions(server_url=model.url))
    yield connection
    await connection.close()


@pytest.fixture
def provider(model: ModelServer, make_provider: MakeProvider) -> Provider:
    return make_provider(partial(create_provider, "auto"), server_url=model.url, retries_max=0)


@pytest.mark.parametrize(("protocols", "kind"), [(("midm",), "midm"), (("openai",), "openai")])
async def test_a_server_is_known_by_what_it_answers(
    model: ModelServer, connection: HttpClient, protocols: tuple[str, ...], kind: str
) -> None:
    model.protocols = protocols
    assert await detect_protocol(connection) == kind


async def test_a_server_that_lists_no_models_speaks_openai_where_a_model_is_configured(
    model: ModelServer, connection: HttpClient
) -> None:
    model.protocols = ()
    with pytest.raises(LlmFailed, match="answered 404"):
        await detect_protocol(connection)
    connection.options = replace(connection.options, model="mine")
    assert await detect_protocol(connection) == "openai"


async def test_midm_is_known_while_its_model_is_still_loading(model: ModelServer, connection: HttpClient) -> None:
    model.model_loaded = False
    assert await detect_protocol(connection) == "midm"


async def test_a_server_that_wants_a_key_for_its_models_speaks_openai(
    model: ModelServer, connection: HttpClient
) -> None:
    model.api_key = "another"
    assert await detect_protocol(connection) == "openai"


async def test_a_server_that_is_down_is_not_known_yet(model: ModelServer, connection: HttpClient) -> None:
    await model.stop()
    with pytest.raises(LlmUnavailable) as caught:
        await detect_protocol(connection)
    assert reason_of(caught.value) == f"LLM server not available: connection refused (asked {model.url}/v1/models)"


async def test_a_server_that_fails_is_not_known_yet(model: ModelServer, connection: HttpClient) -> None:
    model.status = 500
    with pytest.raises(LlmFailed, match="answered 500"):
        await detect_protocol(connection)


@pytest.mark.parametrize("kind", ["midm", "openai"])
async def test_the_first_reply_finds_the_protocol_out(model: ModelServer, provider: Provider, kind: str) -> None:
    model.protocols = (kind,)
    assert (await ask(provider)).text == "You said: hello there"
    assert provider.name == kind


async def test_a_detected_provider_is_closed_with_its_wrapper(provider: Provider) -> None:
    await ask(provider)
    await provider.close()
    with pytest.raises(LlmUnavailable, match="connections are closed"):
        await ask(provider)


async def test_the_server_may_come_up_later(model: ModelServer, provider: Provider) -> None:
    model.protocols = ("openai",)
    await model.stop()
    with pytest.raises(LlmUnavailable, match="LLM server not available"):
        await ask(provider)
    away = f"LLM server not available: connection refused (asked {model.url}/v1/models)"
    assert await provider.health() == Health(available=False, detail=away)
    await model.start()
    assert await provider.health() == Health(available=True)
    assert (await ask(provider)).text == "You said: hello there"


async def test_what_is_known_is_not_asked_again(model: ModelServer, provider: Provider) -> None:
    await ask(provider)
    await ask(provider)
    assert model.probes["/health"] == 1
