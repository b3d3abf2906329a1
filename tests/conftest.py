"""Fixtures that many tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.model_server import ModelServer
from tests.support.service import Running, serving


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A scriptable model server on a real socket."""
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    """The whole service, in this process, with real files and sockets."""
    async with serving(tmp_path, model.url) as running:
        yield running
