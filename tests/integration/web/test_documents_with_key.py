"""/docs calls the API with a key, and /redoc leads there."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.model.model_server import ModelServer
from tests.support.programs.chat_page import Browser, Page, profile
from tests.support.service import Running, started

SECRET = "correct-horse-battery"
pytestmark = [pytest.mark.real_part, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("documents")
    async with ModelServer() as model, started(folder, model.url, CHATBOT_API_KEYS=f"alice:{SECRET}") as running:
        yield running


async def status_of_list(page: Page) -> str:
    """Opens the list of sessions in Swagger UI, calls it, and reads the status that it shows."""
    operation = page.locator("#operations-Sessions-list_sessions")
    await operation.locator("button").first.click()
    await operation.get_by_role("button", name="Try it out").click()
    await operation.get_by_role("button", name="Execute").click()
    return await operation.locator(".live-responses-table tbody .response-col_status").first.inner_text()


async def test_swagger_ui_calls_the_api_with_the_key_that_it_asks_for(browser: Browser, service: Running) -> None:
    async with profile(browser) as user:
        page = await user.new_page()
        await page.goto(f"{service.client.base_url}/redoc")
        await page.get_by_role("link", name="Swagger UI").click()
        await page.get_by_role("button", name="Authorize").first.click()
        await page.get_by_label("auth-bearer-value").fill(SECRET)
        await page.get_by_role("button", name="Apply credentials").first.click()
        await page.get_by_role("button", name="Close").first.click()
        assert (await status_of_list(page)).strip() == "200"


async def test_swagger_ui_takes_the_key_that_the_chat_page_has(browser: Browser, service: Running) -> None:
    kept = [{"name": "chatbot.key", "value": SECRET}]
    origins = [{"origin": str(service.client.base_url), "localStorage": kept}]
    async with profile(browser, storage_state={"cookies": [], "origins": origins}) as user:
        page = await user.new_page()
        await page.goto(f"{service.client.base_url}/docs")
        assert (await status_of_list(page)).strip() == "200"
