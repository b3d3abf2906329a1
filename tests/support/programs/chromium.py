"""A real Chromium, driven over its DevTools protocol: open pages, reload them, see every text that they show."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
)  # fmt: skip
START_TIMEOUT_S = 30.0
SHOW_TIMEOUT_S = 20.0
# Tells the text of #shown at the start and at each change, in whatever way the page changes it.
OBSERVER = """
addEventListener("DOMContentLoaded", () => {
  const shown = document.querySelector("#shown");
  new MutationObserver(() => told(shown.textContent))
    .observe(shown, {childList: true, subtree: true, characterData: true});
  told(shown.textContent);
});
"""


def chromium() -> str:
    """The browser's command; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or pytest.skip("chromium is not installed")


class Page:
    """A tab. `shown` has every text that its #shown element had, through all reloads; `errors` what its code threw."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.shown: list[str] = []
        self.errors: list[str] = []
        self._socket = socket
        self.loads = 0  # of documents, so far
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def text(self) -> str:
        return self.shown[-1] if self.shown else ""

    async def call(self, method: str, **parameters: Any) -> None:
        """A command of the protocol, carried out."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(SHOW_TIMEOUT_S):
            await answer

    async def open(self, url: str) -> None:
        await self._load("Page.navigate", url=url)

    async def reload(self) -> None:
        """As the user's reload button does it; the new page is there, its code has only just begun."""
        await self._load("Page.reload")

    async def _load(self, method: str, **parameters: Any) -> None:
        before = self.loads
        await self.call(method, **parameters)
        async with asyncio.timeout(SHOW_TIMEOUT_S):
            while self.loads == before:
                self._changed.clear()
                await self._changed.wait()

    async def until(self, reached: Callable[[str], bool]) -> str:
        """The text shown, once it is `reached`."""
        try:
            async with asyncio.timeout(SHOW_TIMEOUT_S):
                while not reached(self.text):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"the page shows {self.text!r}; {self.errors}") from None
        return self.text

    async def shows(self, text: str) -> None:
        """Wait until it shows just that."""
        await self.until(lambda shown: shown == text)

    async def close(self) -> None:
        await self._socket.close()
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answered(told)
            elif told["method"] == "Runtime.bindingCalled":
                self.shown.append(told["params"]["payload"])
                self._changed.set()
            elif told["method"] == "Page.domContentEventFired":
                self.loads += 1
                self._changed.set()
            elif told["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["params"]["exceptionDetails"]))

    def _answered(self, told: dict[str, Any]) -> None:
        answer = self._answers.pop(told["id"])
        if "error" in told:
            answer.set_exception(AssertionError(told["error"]))
        else:
            answer.set_result(None)


class Browser:
    """One Chromium without any other host than this one."""

    def __init__(self, http: aiohttp.ClientSession, address: str) -> None:
        self._http = http
        self._address = address
        self.pages: list[Page] = []

    async def page(self, url: str) -> Page:
        """A new tab that shows `url`."""
        async with self._http.put(f"http://{self._address}/json/new?about:blank") as answer:
            target = await answer.json()
        page = Page(await self._http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))
        self.pages.append(page)
        for method in ("Page.enable", "Runtime.enable"):
            await page.call(method)
        await page.call("Runtime.addBinding", name="told")
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=OBSERVER)
        await page.open(url)
        return page


@asynccontextmanager
async def browsing(profile: Path, *names: str) -> AsyncIterator[Browser]:
    """Chromium with an empty `profile`, ended at the end. It finds `names` at 127.0.0.1, and no other host."""
    hosts = ", ".join((*(f"MAP {name} 127.0.0.1" for name in names), "MAP * ~NOTFOUND", "EXCLUDE 127.0.0.1"))
    process = await asyncio.create_subprocess_exec(
        chromium(), *OPTIONS, f"--host-resolver-rules={hosts}", f"--user-data-dir={profile}", "about:blank",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # so that its children end with it
    )  # fmt: skip
    assert process.stderr is not None
    drained: asyncio.Task[bytes] | None = None
    try:
        address = ""
        async with asyncio.timeout(START_TIMEOUT_S):
            while not address and (line := await process.stderr.readline()):
                found = re.search(rb"DevTools listening on ws://([^/]+)/", line)
                address = found[1].decode() if found else ""
        assert address, "Chromium ended"
        drained = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as http:
            browser = Browser(http, address)
            yield browser
            for page in browser.pages:
                await page.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if drained is not None:
            await drained
        await process.wait()
