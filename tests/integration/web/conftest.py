"""One browser for each module."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.programs.chat_page import Browser, launched


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as started:
        yield started
