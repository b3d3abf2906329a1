"""One browser and one service for each module: every test has conversations of its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from msgspec import Struct

from tests.support.model.model_server import ModelServer
from tests.support.programs.chat_page import Browser, launched
from tests.support.service import Running, started


class Site(Struct):
    """The service with a scripted model, and a real browser."""

    browser: Browser
    service: Running
    model: ModelServer

    @property
    def url(self) -> str:
        return str(self.service.client.base_url).rstrip("/")

    async def conversation(self, *turns: tuple[str, str], title: str | None = None) -> str:
        """A new one with these questions and replies; returns its id."""
        session_id = await self.service.session(title=title)
        for question, reply in turns:
            self.model.script(pieces=(reply,))
            await self.service.chat(session_id, question)
        return session_id


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    async with ModelServer() as model, started(folder, model.url, CHATBOT_STREAM_SSE_PING_S="1") as service:
        yield Site(browser, service, model)


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The model has no scripts, and answers held back are those of this test."""
    shared_site.model.clear_scripts()
    shared_site.model.requests.clear()
    shared_site.model.released.clear()
    shared_site.model.status = 200
    return shared_site
