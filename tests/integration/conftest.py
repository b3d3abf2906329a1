"""Services with settings of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving


@pytest.fixture
async def pinging_service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    """Pings ten times a second."""
    async with serving(tmp_path, model.url, CHATBOT_STREAM_SSE_PING_S="0.1") as running:
        yield running
