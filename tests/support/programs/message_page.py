"""The chat page's modules in Chromium without a service: their files with the page's policy, and a list of messages."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Route

from chatbot.api.routes.page_routes import PAGE_HEADERS
from chatbot.web.assets import read_assets
from tests.support.programs.chat_page import WAIT_MS, Browser, Page, profile

ORIGIN = "http://localhost:9"  # nothing listens there: all answers come from here
DOCUMENT = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Messages</title>
<link rel="stylesheet" href="/page/style.css"><link rel="stylesheet" href="/page/message.css">
<script type="module" src="/list.js"></script></head><body><main><h1>Messages</h1><div id="list" role="log"></div>
</main></body></html>"""
# `broken`: what the page's policy refused, and `acted`: the names and arguments of the actions that were called.
SCRIPT = """
import { createMessageView } from "/page/message_view.js";
const list = document.getElementById("list");
const act = (name) => (...given) => { acted.push([name, ...given.map((one) => one?.message_id ?? one)]); };
window.broken = []; window.acted = []; window.views = [];
addEventListener("securitypolicyviolation", (event) => broken.push(`${event.violatedDirective} ${event.sourceFile}`));
const actions = {
  copy: async (text) => { acted.push(["copy", text]); }, mediaUrl: async (part) => part.url, can: {},
  ...Object.fromEntries(["regenerate", "edit", "fork", "selectSibling", "retry", "discard", "openMedia", "continue"]
    .map((name) => [name, act(name)])),
};
const EMPTY = {
  message_id: "m1", role: "assistant", parts: [], content: "", status: "complete", siblings: ["m1"],
  token_usage: null, finish_reason: "stop", finish_detail: "", model: "tiny", created_at: "2026-11-30T12:00:00Z",
  calls: null, timing: null, error: null,
};
window.show = (message) => {
  const view = createMessageView({ ...EMPTY, ...message }, actions);
  views.push(view);
  list.append(view.element);
};
window.update = (message) => views.at(-1).update({ ...EMPTY, ...message });
window.clear = () => { for (const view of views.splice(0)) view.destroy(); list.replaceChildren(); acted.length = 0; };
window.isReady = true;
"""
FILES = {"/": (DOCUMENT, "text/html"), "/list.js": (SCRIPT, "text/javascript")}


class MessagePage:
    """A page with a list of messages. `requested`: the paths of the files that it loaded. `unreachable`: those that
    begin with it are not to be had.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requested: list[str] = []
        self.unreachable = "nothing"
        self._assets = read_assets()

    async def answer(self, route: Route) -> None:
        path = route.request.url.removeprefix(ORIGIN)
        self.requested.append(path)
        if path in FILES:
            body, content_type = FILES[path]
            await route.fulfill(body=body, content_type=content_type, headers=PAGE_HEADERS)
        elif path.startswith(self.unreachable):
            await route.abort()
        elif asset := self._assets.files.get(path.removeprefix("/")):
            await route.fulfill(body=asset.body, content_type=asset.content_type, headers=PAGE_HEADERS)
        else:
            await route.abort()

    async def run(self, script: str, given: Any = None) -> Any:
        """The value of a function in JavaScript, called with `given`."""
        return await self.page.evaluate(script, given)

    async def show(self, **message: Any) -> None:
        """Shows one message, alone."""
        await self.run("(message) => { clear(); show(message); }", message)

    async def show_text(self, text: str, status: str = "complete") -> None:
        await self.show(parts=[{"type": "text", "text": text}], status=status)

    async def update(self, **message: Any) -> None:
        await self.run("(message) => update(message)", message)

    async def wait(self, condition: str) -> None:
        """Until an expression in JavaScript is true. Playwright's own wait_for_function breaks the page's policy."""
        async with asyncio.timeout(WAIT_MS / 1000):
            while not await self.run(f"() => {condition}"):
                await asyncio.sleep(0.02)

    async def html(self, selector: str = ".message-text") -> str:
        """The markup of what the selector finds first, as the browser writes it."""
        return str(await self.run("(selector) => document.querySelector(selector).innerHTML", selector))

    async def module(self, path: str, script: str, given: Any = None) -> Any:
        """The value of a function in JavaScript that is given a module of the page, and `given`."""
        return await self.run(f"async (given) => ({script})(await import({json.dumps(path)}), given)", given)


@asynccontextmanager
async def message_page(browser: Browser, **options: Any) -> AsyncIterator[MessagePage]:
    """Fails the test if the page threw an error, wrote one to its console, or broke its policy."""
    async with profile(browser, **options) as context:
        opened = MessagePage(await context.new_page())
        await context.route(lambda url: url.startswith(ORIGIN), opened.answer)
        await opened.page.goto(f"{ORIGIN}/")
        await opened.wait("window.isReady")
        yield opened
        assert await opened.run("() => broken") == []
