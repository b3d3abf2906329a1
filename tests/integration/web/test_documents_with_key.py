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
        await page.get_by_role("link", name="Swagger UI", exact=True).click()
        await page.get_by_role("button", name="Authorize").first.click()
        await page.get_by_label("auth-bearer-value").fill(SECRET)
        await page.get_by_role("button", name="Apply credentials").first.click()
        await page.get_by_role("button", name="Close").first.click()
        assert (await status_of_list(page)).strip() == "200"


async def test_each_operation_in_redoc_leads_to_where_it_can_be_called(browser: Browser, service: Running) -> None:
    async with profile(browser) as user:
        page = await user.new_page()
        await page.goto(f"{service.client.base_url}/redoc#operation/list_sessions")
        link = page.locator('[id="operation/list_sessions"]').get_by_role("link", name="Call it in Swagger UI")
        await link.click()
        await page.locator("#operations-Sessions-list_sessions.is-open").wait_for()


async def test_both_pages_call_the_api_under_the_path_of_a_proxy(browser: Browser, tmp_path: Path) -> None:
    settings = {"CHATBOT_API_KEYS": f"alice:{SECRET}", "CHATBOT_SERVER_PATH_PREFIX": "/chat"}
    async with ModelServer() as model, started(tmp_path, model.url, **settings) as running, profile(browser) as user:
        page = await user.new_page()
        await page.goto(f"{running.client.base_url}/chat/redoc")
        await page.get_by_role("link", name="Swagger UI", exact=True).click()
        assert page.url.endswith("/chat/docs")
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
