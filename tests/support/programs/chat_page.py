"""The chat page in a real Chromium, driven by Playwright with Debian's browser: nothing is downloaded."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Error, Locator, Page, async_playwright, expect

from tests.support.programs.chromium import chromium
from tests.support.programs.client_tools import NODE_PACKAGES

WAIT_MS = 30_000.0  # far more than any wait needs, unless the machine is busy
OPTIONS = ("--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update")
HERE_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
AXE = NODE_PACKAGES / "axe-core" / "axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"]
# What the browser says of requests that tests make fail on purpose; the page itself writes nothing like it
NETWORK_MESSAGES = ("Failed to load resource", "net::ERR_")


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """A browser that finds no other host than this one."""
    expect.set_options(timeout=WAIT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=[*OPTIONS, HERE_ONLY])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def profile(browser: Browser, **options: Any) -> AsyncIterator[BrowserContext]:
    """A user's browser: storage and pages of its own. Fails the test if a page threw an error, or broke its policy."""
    faults: list[str] = []
    options = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}, **options}
    context = await browser.new_context(**options)
    context.set_default_timeout(WAIT_MS)

    def watch(page: Page) -> None:
        page.on("pageerror", broke)
        page.on("console", said)

    def broke(error: Error) -> None:
        faults.append(f"{error.name}: {error.message}\n{error.stack}")

    def said(message: ConsoleMessage) -> None:
        if message.type == "error" and not any(known in message.text for known in NETWORK_MESSAGES):
            faults.append(message.text)

    context.on("page", watch)
    try:
        yield context
    finally:
        await context.close()
    assert not faults, "\n".join(faults)


class Chat:
    """A tab with the page, operated as a person does it: by the names of its controls."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.message = page.get_by_role("textbox", name="Message", exact=True)
        self.log = page.get_by_role("log")
        self.replies = page.locator("article[data-role=assistant]")
        self.questions = page.locator("article[data-role=user]")
        self.banners = page.locator(".banner")
        self.list = page.get_by_role("navigation", name="Conversations")

    @classmethod
    async def open(cls, user: BrowserContext, service: str, session_id: str = "") -> "Chat":
        page = await user.new_page()
        await page.goto(f"{service}/#/{session_id}")
        chat = cls(page)
        await expect(chat.message).to_be_visible()
        return chat

    async def is_complete(self) -> None:
        """Waits for the modules that show messages: they follow the first load."""
        imported = "(one) => one.name.endsWith('/marked.esm.js') && one.initiatorType !== 'fetch'"
        async with asyncio.timeout(WAIT_MS / 1000):  # Playwright's own wait_for_function breaks the page's policy
            while not await self.page.evaluate(f"performance.getEntriesByType('resource').some({imported})"):
                await asyncio.sleep(0.02)

    async def ask(self, text: str) -> None:
        await expect(self.page.get_by_role("dialog")).to_have_count(0)  # it would get what is typed
        await self.message.fill(text)
        await self.message.press("Enter")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    async def reply_is(self, text: str, index: int = -1) -> None:
        """Waits until a reply has ended, and its text is just that."""
        reply = self.replies.nth(index)
        await expect(reply.locator(".message-body")).to_have_text(text)
        await expect(reply).not_to_have_attribute("aria-busy", "true")

    async def session_id(self) -> str:
        """The open conversation's, once it has one."""
        await self.page.wait_for_url(re.compile("#/.+"))
        return self.page.url.partition("#/")[2]


async def violations(page: Page) -> list[str]:
    """What axe finds wrong with the page as it is shown."""
    if not AXE.exists():
        pytest.skip("CLIENT_TOOLS names no folder with axe-core: .ci/client-tools installs it")
    if not await page.evaluate("typeof axe === 'object'"):
        await page.evaluate(AXE.read_text())  # over the protocol: the page's policy admits no such script
    found = await page.evaluate("tags => axe.run(document, {runOnly: tags, resultTypes: ['violations']})", WCAG)
    return [
        f"{one['id']}: {one['help']}: {json.dumps([(node['target'], node['failureSummary']) for node in one['nodes']])}"
        for one in found["violations"]
    ]


__all__ = ["Browser", "BrowserContext", "Chat", "Locator", "Page", "expect", "launched", "profile", "violations"]
