"""A page in a real Chromium, of another origin, shows a session while it happens: reloads and restarts lose nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.http.web_page_host import hosting, origin_of
from tests.support.model.model_server import ModelServer
from tests.support.programs.chromium import Browser, Page, browsing, chromium
from tests.support.programs.external_programs import free_port
from tests.support.service import Program, Running, program, serving

pytestmark = [pytest.mark.real_part]

# Shows the history, then appends what comes and takes nothing back: what is sent twice is shown twice.
APPENDING = """
const history = await (await fetch(service + "/messages")).json();
const say = (text) => shown.append(text);
for (const one of history.messages) say(`${one.role}: ${one.content}\\n`.slice(0, one.status === "streaming" ? -1 : undefined));
const feed = new EventSource(service + "/stream?after=" + history.cursor);
feed.onmessage = ({data}) => {
  const frame = JSON.parse(data);
  switch (frame.type) {
    case "message": return say(`user: ${frame.content}\\n`);
    case "start": return say("assistant: ");
    case "chunk": return say(frame.content);
    case "complete": return say("\\n");
    case "error": return say(`\\n[${frame.status} after ${frame.length}]\\n`);
    default: return;
  }
};
"""  # noqa: E501
PIECES = tuple(f"{number} 안녕 👩‍👩‍👧‍👦\n" for number in range(120))
HELD_AT = 100
RELOADS = 6


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    chromium()
    async with browsing(tmp_path / "chromium") as started:
        yield started


@pytest.fixture
async def site() -> AsyncIterator[str]:
    async with hosting(APPENDING) as address:
        yield address


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer, site: str) -> AsyncIterator[Running]:
    """A service that the site's pages may call."""
    async with serving(tmp_path, model.url, CORS_ORIGINS=origin_of(site)) as running:
        yield running


def path_of(session_id: str) -> str:
    return f"/api/sessions/{session_id}"


async def post(url: str, session_id: str, message: str) -> None:
    """Ask, read the first frame, and leave: the page is who reads the reply."""
    body = {"session_id": session_id, "message": message}
    async with (
        httpx.AsyncClient(base_url=url, timeout=20) as client,
        client.stream("POST", "/api/chat/stream", json=body) as answer,
    ):
        assert answer.status_code == 200
        await anext(answer.aiter_text())


def check_only_grew(page: Page) -> None:
    """Nothing that it ever showed was wrong, be it between two reloads or right after one."""
    for text in page.shown:
        assert page.text.startswith(text)
    assert page.errors == []


async def test_a_page_reloaded_in_mid_reply_again_and_again_never_shows_a_wrong_character(
    service: Running, model: ModelServer, browser: Browser, site: str
) -> None:
    model.script(pieces=PIECES, delay_s=0.01, hold_after=HELD_AT)
    session_id = await service.session()
    page = await browser.page(f"{site}{service.client.base_url}{path_of(session_id)}")
    await post(str(service.client.base_url), session_id, "count")
    for number in range(RELOADS):
        wanted = PIECES[(number + 1) * HELD_AT // (RELOADS + 1)]
        await page.until(lambda text, wanted=wanted: wanted in text)  # type: ignore[misc]
        await page.reload()
    model.release()
    await page.shows(f"user: count\nassistant: {''.join(PIECES)}\n")
    check_only_grew(page)
    history = await service.history(session_id)
    assert history["messages"][-1]["content"] == "".join(PIECES)


async def test_a_page_goes_on_by_itself_when_the_service_is_stopped_and_started_again(
    browser: Browser, site: str, tmp_path: Path, model: ModelServer
) -> None:
    settings = {"PORT": str(free_port()), "CHATBOT_SERVER_DRAIN_GRACE_S": "0", "CHATBOT_STREAM_SSE_RETRY_S": "0.2"}
    settings["CORS_ORIGINS"] = origin_of(site)
    model.script(pieces=("All ", "is ", "well."))
    model.script(pieces=PIECES, hold_after=2)
    said = "user: one\nassistant: All is well.\nuser: two\nassistant: " + "".join(PIECES[:2])
    async with program(tmp_path, model.url, **settings) as first:
        session_id = await new_session(first)
        page = await browser.page(f"{site}{first.url}{path_of(session_id)}")
        loads = page.loads
        await post(first.url, session_id, "one")
        await page.shows("user: one\nassistant: All is well.\n")
        await post(first.url, session_id, "two")
        await page.shows(said)
        assert await first.stop() == 0
    async with program(tmp_path, model.url, **settings) as second:
        said += f"\n[interrupted after {len(''.join(PIECES[:2]))}]\n"
        await page.shows(said)
        await post(second.url, session_id, "three")
        await page.shows(f"{said}user: three\nassistant: You said: three\n")
        check_only_grew(page)
        assert page.loads == loads, "it was never reloaded"


async def new_session(running: Program) -> str:
    async with httpx.AsyncClient(base_url=running.url) as client:
        return str((await client.post("/api/sessions")).json()["session_id"])


async def test_a_cancel_from_elsewhere_ends_the_reply_on_the_page_and_no_character_follows(
    service: Running, model: ModelServer, browser: Browser, site: str
) -> None:
    model.script(pieces=PIECES, hold_after=3)
    session_id = await service.session()
    pages = [await browser.page(f"{site}{service.client.base_url}{path_of(session_id)}") for _ in range(2)]
    await post(str(service.client.base_url), session_id, "count")
    kept = "".join(PIECES[:3])
    for page in pages:
        await page.shows(f"user: count\nassistant: {kept}")
    cancelled = await service.client.post(f"{path_of(session_id)}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    model.release()
    await service.chat(session_id, "and now?")
    for page in pages:
        await page.shows(
            f"user: count\nassistant: {kept}\n[cancelled after {len(kept)}]\n"
            "user: and now?\nassistant: You said: and now?\n"
        )
        check_only_grew(page)
    assert (await service.history(session_id))["messages"][1]["content"] == kept
