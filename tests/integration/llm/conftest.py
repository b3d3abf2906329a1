"""A model server that answers with given bytes, and providers that are closed after the test."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from chatbot.llm.llm_options import LlmOptions
from tests.support.model.provider_client import MakeProvider, P
from tests.support.model.raw_model_server import RawServer


@pytest.fixture
async def raw_server() -> AsyncIterator[RawServer]:
    async with RawServer().listening() as server:
        yield server


@pytest.fixture
async def make_provider() -> AsyncIterator[MakeProvider]:
    """Makes a provider of a class with these options."""
    made: list[Any] = []

    def make(kind: Callable[[LlmOptions], P], **options: Any) -> P:
        provider = kind(LlmOptions(**options))
        made.append(provider)
        return provider

    yield make
    for provider in made:
        await provider.close()
