"""The two streaming clients that the README shows are run as printed, and are right after whatever happens to them."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.documents import marked
from tests.support.http.stream_reader import reading
from tests.support.http.web_page_host import hosting, origin_of
from tests.support.model.model_server import ModelServer
from tests.support.programs.chromium import Browser, Page, browsing, chromium
from tests.support.programs.external_programs import free_port, requires_program
from tests.support.programs.nginx import nginx
from tests.support.service import program

LINES_MAX = 15
PIECES = ("하나 ", "둘 👩‍👩‍👧‍👦 ", "셋 ", "\u2028넷")
TEXT = "".join(PIECES)
THINKING: tuple[dict[str, Any], ...] = (
    {"reasoning_content": "Which weather? "},
    {"reasoning_content": "Seoul's."},
    *({"content": piece} for piece in PIECES),
    {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": '{"city":'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '"Seoul"}'}}]},
)
SHOW = "follow(service, (texts) => { shown.textContent = JSON.stringify([...texts.values()]); });"


def printed(language: str) -> str:
    """The streaming client in that language, as the documents show it."""
    return marked(f"streaming client: {language}")


@pytest.mark.parametrize("language", ["javascript", "python"])
def test_the_readmes_streaming_clients_are_short(language: str) -> None:
    assert len(printed(language).splitlines()) <= LINES_MAX


@pytest.fixture
def settings() -> dict[str, str]:
    """Of a program that comes back at the same address, and pings often."""
    return {"PORT": str(free_port()), "CHATBOT_STREAM_SSE_RETRY_S": "0.2", "CHATBOT_STREAM_SSE_PING_S": "0.1"}


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    chromium()
    async with browsing(tmp_path / "chromium") as started:
        yield started


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """A page that shows the texts that the README's JavaScript knows, as JSON."""
    async with hosting(printed("javascript") + SHOW) as address:
        yield address


class Printer:
    """The README's Python, running. `written` is what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.written = ""
        self._process = process
        self._raw = b""

    async def until(self, wanted: str) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            while wanted not in self.written:
                read = await self._process.stdout.read(4096)
                assert read, f"it ended after {self.written!r}"
                self._raw += read
                self.written = self._raw.decode(errors="ignore")

    async def ended(self) -> int:
        """The exit code; `written` is complete."""
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            self.written = (self._raw + await self._process.stdout.read()).decode()
            return await self._process.wait()


@asynccontextmanager
async def printing(session_url: str) -> AsyncIterator[Printer]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", printed("python"), f"{session_url}/stream"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    try:
        yield Printer(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class User:
    """Someone with a session."""

    def __init__(self, client: httpx.AsyncClient, session_id: str) -> None:
        self.client = client
        self.session_id = session_id
        self.url = f"{client.base_url}/api/sessions/{session_id}"

    async def post(self, message: str) -> None:
        """Ask, and leave as soon as the message is on record."""
        body = {"session_id": self.session_id, "message": message}
        async with self.client.stream("POST", "/api/chat/stream", json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            await anext(answer.aiter_text())

    async def history(self) -> dict[str, Any]:
        return dict((await self.client.get(f"{self.url}/messages")).json())

    async def texts(self) -> list[str]:
        """What is on record, once the last reply has ended."""
        async with asyncio.timeout(10):
            while (found := (await self.history())["messages"])[-1]["status"] == "streaming":
                await asyncio.sleep(0.02)
        return [str(one["content"]) for one in found]

    async def checkpoint(self, model: ModelServer, pieces: int) -> None:
        """Let the model say that much, and wait until it is recorded."""
        before = (await self.history())["version"]
        for _ in range(pieces):
            model.step()
        async with asyncio.timeout(10):
            while (found := await self.history())["version"] == before:
                await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            while found["messages"][-1]["content"] != "".join(PIECES[:pieces]):
                await asyncio.sleep(0.02)
                found = await self.history()

    async def kept(self) -> str:
        """What the crash left of PIECES, as the feed tells it."""
        async with reading(self.client, f"{self.url}/stream", after="0:0") as reader:
            return TEXT[: (await reader.until("error"))["length"]]

    async def delete(self) -> None:
        assert (await self.client.delete(self.url)).status_code == 204


@asynccontextmanager
async def user_of(url: str) -> AsyncIterator[User]:
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield User(client, (await client.post("/api/sessions")).json()["session_id"])


async def shows(page: Page, texts: list[str]) -> None:
    """Wait until it shows just these."""
    await page.until(lambda shown: shown != "" and json.loads(shown) == texts)
    assert page.errors == []


@pytest.mark.parametrize("retries", [0, 1])
async def test_the_readmes_python_prints_what_is_on_record_after_a_kill_in_mid_reply(
    tmp_path: Path, model: ModelServer, settings: dict[str, str], retries: int
) -> None:
    settings["CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX"] = str(retries)
    model.script(pieces=("All ", "is ", "well."))
    model.script(pieces=PIECES, stepwise=True)
    async with (
        program(tmp_path, model.url, **settings) as first,
        user_of(first.url) as user,
        printing(user.url) as printer,
    ):
        await user.post("one")
        await printer.until("All is well.")
        await user.post("two")
        await user.checkpoint(model, 2)
        model.step()  # what comes now is seen, and lost in the crash
        await printer.until("".join(PIECES[:3]))
        await first.kill()
        if retries:
            model.script(pieces=PIECES)
        async with program(tmp_path, model.url, **settings):
            if retries:
                await printer.until(TEXT)
            await user.post("three")
            await printer.until("You said: three")
            texts, kept = await user.texts(), await user.kept()
            await user.delete()
            assert await printer.ended() == 0
    assert texts[1::2] == ["All is well.", TEXT if retries else kept, "You said: three"]
    assert kept.startswith("".join(PIECES[:2]))
    seen = "".join(PIECES[:3])
    replies = ["All is well.", seen, *([kept] if kept != seen else []), *([TEXT] if retries else []), "You said: three"]
    assert printer.written == "".join(f"\n{reply}" for reply in replies)


async def test_the_readmes_python_prints_no_character_twice_when_the_service_is_restarted(
    tmp_path: Path, model: ModelServer, settings: dict[str, str]
) -> None:
    settings["CHATBOT_SERVER_DRAIN_GRACE_S"] = "0"
    model.script(pieces=PIECES, hold_after=2)
    async with (
        program(tmp_path, model.url, **settings) as first,
        user_of(first.url) as user,
        printing(user.url) as printer,
    ):
        await user.post("one")
        await printer.until("".join(PIECES[:2]))
        assert await first.stop() == 0
        async with program(tmp_path, model.url, **settings):
            await user.post("two")
            await printer.until("You said: two")
            texts = await user.texts()
            await user.delete()
            assert await printer.ended() == 0
    assert printer.written == "".join(f"\n{text}" for text in texts[1::2])
    assert texts[1] == "".join(PIECES[:2])


async def test_the_readmes_python_prints_the_text_alone_of_a_reply_that_reasons_and_calls(
    tmp_path: Path, model: ModelServer, settings: dict[str, str]
) -> None:
    model.script(deltas=THINKING, finish_reason="tool_calls")
    model.script(deltas=THINKING, hold_after=len(THINKING) - 2)
    async with (
        program(tmp_path, model.url, **settings) as running,
        user_of(running.url) as user,
        printing(user.url) as printer,
    ):
        await user.post("one")
        await printer.until(TEXT)
        await user.texts()
        await user.post("two")
        await printer.until(f"{TEXT}\n{TEXT}")
        await user.client.post(f"{user.url}/cancel")
        await user.texts()
        await user.delete()
        assert await printer.ended() == 0
    assert printer.written == f"\n{TEXT}" * 2


@pytest.mark.real_part
async def test_the_readmes_javascript_shows_the_text_alone_of_a_reply_that_reasons_and_calls(
    tmp_path: Path, model: ModelServer, settings: dict[str, str], browser: Browser, site: str
) -> None:
    settings["CORS_ORIGINS"] = origin_of(site)
    model.script(deltas=THINKING, stepwise=True, finish_reason="tool_calls")
    async with program(tmp_path, model.url, **settings) as running, user_of(running.url) as user:
        page = await browser.page(site + user.url)
        await user.post("one")
        for number in range(len(THINKING)):
            model.step()
            await shows(page, ["one", "".join(PIECES[: max(0, number - 1)])])
        await user.texts()
        await shows(page, ["one", TEXT])
        await page.reload()
        await shows(page, ["one", TEXT])


@pytest.mark.real_part
@pytest.mark.parametrize("retries", [0, 1])
async def test_the_readmes_javascript_shows_what_is_on_record_after_a_kill_in_mid_reply(
    tmp_path: Path, model: ModelServer, settings: dict[str, str], browser: Browser, site: str, retries: int
) -> None:
    settings["CORS_ORIGINS"] = origin_of(site)
    settings["CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX"] = str(retries)
    model.script(pieces=PIECES, stepwise=True)
    async with program(tmp_path, model.url, **settings) as first, user_of(first.url) as user:
        page = await browser.page(site + user.url)
        await shows(page, [])
        await user.post("one")
        await user.checkpoint(model, 2)
        model.step()
        await shows(page, ["one", "".join(PIECES[:3])])
        await first.kill()
        if retries:
            model.script(pieces=PIECES)
        async with program(tmp_path, model.url, **settings):
            recorded = TEXT if retries else await user.kept()
            await shows(page, ["one", recorded])
            await user.post("two")
            await shows(page, ["one", recorded, "two", "You said: two"])
            assert json.loads(page.text) == await user.texts()


@pytest.mark.real_part
async def test_the_readmes_javascript_is_exact_through_reloads_and_a_cancel_and_stops_with_the_session(
    tmp_path: Path, model: ModelServer, settings: dict[str, str], browser: Browser, site: str
) -> None:
    settings["CORS_ORIGINS"] = origin_of(site)
    model.script(pieces=PIECES, stepwise=True)
    async with program(tmp_path, model.url, **settings) as running, user_of(running.url) as user:
        page = await browser.page(site + user.url)
        await user.post("one")
        for number in (1, 2, 3):
            model.step()
            await shows(page, ["one", "".join(PIECES[:number])])
            await page.reload()
        await user.client.post(f"{user.url}/cancel")
        model.step()
        await user.post("two")
        await shows(page, ["one", "".join(PIECES[:3]), "two", "You said: two"])
        assert await user.texts() == json.loads(page.text)
        await user.delete()
        async with asyncio.timeout(10):
            while not await not_found(user, "messages"):  # it asks once more, and is told
                await asyncio.sleep(0.05)
        assert await not_found(user, "stream") == 0, "its feed would have come back long ago"


async def not_found(user: User, call: str) -> int:
    """How often the service has answered 404 to that call of a session."""
    metrics = (await user.client.get("/metrics")).text
    pattern = rf'^chatbot_http_request_seconds_count{{[^}}]*route="[^"]*/{call}"[^}}]*status="404"}} (\d+)'
    return sum(int(count) for count in re.findall(pattern, metrics, re.MULTILINE))


@requires_program("nginx")
@pytest.mark.real_part
async def test_the_readmes_javascript_comes_back_though_nginx_answers_502_while_the_service_restarts(
    tmp_path: Path, model: ModelServer, settings: dict[str, str], browser: Browser, site: str
) -> None:
    settings["CORS_ORIGINS"] = origin_of(site)
    model.script(pieces=PIECES, hold_after=2)
    async with (
        program(tmp_path, model.url, **settings) as first,
        user_of(first.url) as user,
        nginx(tmp_path / "nginx", first.url) as proxy,
    ):
        page = await browser.page(f"{site}{proxy.url}/api/sessions/{user.session_id}")
        await user.post("one")
        await shows(page, ["one", "".join(PIECES[:2])])
        await first.kill()
        async with asyncio.timeout(20):
            while proxy.error_log.count("Connection refused") < 2:  # the page has been told twice: 502
                await asyncio.sleep(0.02)
        async with program(tmp_path, model.url, **settings):
            await user.post("two")
            await page.until(lambda shown: "You said: two" in shown)
            await shows(page, await user.texts())
