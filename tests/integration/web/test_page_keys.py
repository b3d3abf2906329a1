"""The chat page of a service with API keys: asked for once, kept where the user wants it, and in no address."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.web.conftest import Site
from tests.support.model.model_server import ModelServer
from tests.support.programs.chat_page import Browser, Chat, expect, profile
from tests.support.programs.external_programs import requires_program
from tests.support.programs.nginx import nginx
from tests.support.service import started

SECRET, OTHER = "correct-horse-battery", "another-long-secret"
pytestmark = [pytest.mark.real_part, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    keys = {"CHATBOT_API_KEYS": f"alice:{SECRET},bob:{OTHER}", "CHATBOT_AUTH_ADMINS": "alice"}
    settings = {**keys, "CHATBOT_STREAM_SSE_PING_S": "1"}
    folder = tmp_path_factory.mktemp("locked")
    async with ModelServer() as model, started(folder, model.url, **settings) as service:
        yield Site(browser, service, model)


async def give_key(chat: Chat, secret: str, *, remember: bool = False, works: bool = True) -> None:
    """Waits for the end of the dialog if the key `works`: nothing can be typed elsewhere before."""
    dialog = chat.page.get_by_role("dialog", name="API key")
    await dialog.get_by_label("Key", exact=True).fill(secret)
    if remember:
        await dialog.get_by_label("Remember it in this browser").check()
    await dialog.get_by_role("button", name="Continue").click()
    if works:
        await expect(dialog).to_have_count(0)


async def test_a_key_is_asked_for_once_and_stays_in_the_tab(locked: Site) -> None:
    body, alice = {"name": "prometheus", "scopes": ["metrics"]}, {"X-API-Key": SECRET}
    metrics_secret = (await locked.service.client.post("/api/keys", json=body, headers=alice)).json()["secret"]
    async with profile(locked.browser) as user:
        addresses: list[str] = []
        user.on("request", lambda request: addresses.append(request.url))
        chat = await Chat.open(user, locked.url)
        dialog = chat.page.get_by_role("dialog")
        await expect(dialog).to_have_count(1)
        await give_key(chat, "a wrong one", works=False)
        await expect(dialog.get_by_role("alert")).to_contain_text("not known here")
        await give_key(chat, metrics_secret, works=False)
        await expect(dialog.get_by_role("alert")).to_have_text("This key may not do that. Use another one.")
        await give_key(chat, SECRET)
        await expect(dialog).to_have_count(0)
        await chat.ask("With a key")
        await chat.reply_is("You said: With a key")
        await chat.page.reload()
        await chat.reply_is("You said: With a key")
        assert SECRET not in await chat.page.evaluate("JSON.stringify(localStorage)")
        second = await user.new_page()
        await second.goto(locked.url)
        await expect(second.get_by_role("dialog", name="API key")).to_be_visible()
        assert not [address for address in addresses if SECRET in address or "wrong" in address]


async def test_a_key_can_be_remembered_and_changed(locked: Site) -> None:
    async with profile(locked.browser) as user:
        chat = await Chat.open(user, locked.url)
        await give_key(chat, SECRET, remember=True)
        await chat.ask("Alice asks")
        await chat.reply_is("You said: Alice asks")
        second = await Chat.open(user, locked.url)
        await expect(second.list.get_by_role("link", name=re.compile("Alice asks"))).to_be_visible()
        await second.button("Change the API key").click()
        await give_key(second, OTHER)
        await expect(second.list.get_by_text("No conversations yet.")).to_be_visible()


async def test_a_key_that_is_refused_later_is_asked_for_again_where_the_user_was(locked: Site) -> None:
    kept = [{"name": "chatbot.key", "value": "a-key-that-was-removed"}]
    state: Any = {"cookies": [], "origins": [{"origin": locked.url, "localStorage": kept}]}
    async with profile(locked.browser, storage_state=state) as user:
        chat = await Chat.open(user, locked.url)
        dialog = chat.page.get_by_role("dialog", name="API key")
        await expect(dialog.get_by_role("alert")).to_contain_text("no longer accepted")
        await dialog.get_by_role("button", name="Not now").click()
        await chat.ask("Kept meanwhile")
        await chat.banners.get_by_role("button", name="Enter key").click()
        await give_key(chat, SECRET)
        await chat.reply_is("You said: Kept meanwhile")


@requires_program("nginx")
async def test_the_page_works_under_a_path_prefix(locked: Site, tmp_path: Any) -> None:
    async with (
        nginx(tmp_path / "nginx", locked.url, location="/team/chat/", target="/") as proxy,
        profile(locked.browser) as user,
    ):
        chat = await Chat.open(user, f"{proxy.url}/team/chat")
        await give_key(chat, SECRET)
        await chat.ask("Under a path")
        await chat.reply_is("You said: Under a path")
