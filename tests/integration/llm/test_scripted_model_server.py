"""The scriptable model server as a process of its own, as other tests use it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider_factory import create_provider
from tests.support.model.provider_client import ask

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.model.model_server", "--port", "0"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    yield json.loads(await process.stdout.readline())["url"]
    process.kill()
    await process.wait()


async def test_it_takes_scripts_and_settings_and_shows_its_requests(url: str) -> None:
    provider = create_provider("midm", LlmOptions(server_url=url))
    async with aiohttp.ClientSession(url) as control:
        await control.post("/_script", json={"pieces": ["a", "b"], "times": 2})
        await control.post("/_set", json={"model_loaded": False})
        assert (await ask(provider)).text == "ab"
        assert (await provider.health()).available is False
        async with control.get("/_requests") as answer:
            requests = await answer.json()
    assert [(request["path"], request["pieces_sent"]) for request in requests] == [("/chat/stream", 2)]
    await provider.close()
