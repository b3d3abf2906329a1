"""A web page of a foreign origin gets nothing from a service with the default settings, and changes nothing there."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.web_page_host import hosting, origin_of
from tests.support.model.model_server import ModelServer
from tests.support.programs.chromium import Browser, browsing, chromium
from tests.support.service import Running, serving

NAME = "evil.example"
PAGE = "https://page.example"
# Tries everything that a page can, and shows what came of it as JSON.
ATTACK = """
const base = new URL(service).origin, found = {};
async function attempt(name, path, options) {
  try {
    const answer = await fetch(path, options);
    found[name] = answer.type === "opaque" ? "opaque" : `${answer.status} ${await answer.text()}`;
  } catch { found[name] = "blocked"; }
}
function listen(name, path) {
  return new Promise((resolve) => {
    const feed = new EventSource(path);
    const end = (text) => { found[name] = text; feed.close(); resolve(); };
    feed.onmessage = ({data}) => end(data);
    feed.onerror = () => end("blocked");
  });
}
const typed = {"Content-Type": "application/json"};
const form = new URLSearchParams({title: "x"});
const message = JSON.stringify({session_id: service.split("/").at(-1), message: "PLANTED"});
await attempt("list", base + "/api/sessions");
await attempt("history", service + "/messages");
await attempt("log", base + "/api/events");
await attempt("health", base + "/api/health");
await attempt("blind read", service + "/messages", {mode: "no-cors"});
await attempt("create", base + "/api/sessions", {method: "POST"});
await attempt("blind create", base + "/api/sessions", {method: "POST", mode: "no-cors"});
await attempt("blind form", base + "/api/sessions", {method: "POST", mode: "no-cors", body: form});
await attempt("blind cancel", service + "/cancel", {method: "POST", mode: "no-cors"});
await attempt("blind fork", service + "/fork", {method: "POST", mode: "no-cors"});
await attempt("blind regenerate", service + "/regenerate", {method: "POST", mode: "no-cors", keepalive: true});
await attempt("chat", base + "/api/chat", {method: "POST", headers: typed, body: message});
await attempt("blind chat", base + "/api/chat", {method: "POST", mode: "no-cors", body: message});
await attempt("title", service, {method: "PATCH", headers: typed, body: '{"title": "x"}'});
await listen("feed", service + "/stream?after=0:0");
navigator.sendBeacon(base + "/api/sessions");
await attempt("delete", service, {method: "DELETE"});
shown.textContent = JSON.stringify(found);
"""
# Waits until its own name leads to the service, as its DNS server has said meanwhile.
REBINDING = """
async function attempt() {
  const answer = await fetch("/api/sessions", {cache: "no-store"}).catch(() => null);
  if (!answer || !answer.headers.get("x-request-id")) return setTimeout(attempt, 20);
  const written = await fetch("/api/sessions", {method: "POST"});
  shown.textContent = JSON.stringify([answer.status, await answer.text(), written.status, await written.text()]);
}
attempt();
"""


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    chromium()
    async with browsing(tmp_path / "chromium", NAME) as started:
        yield started


async def result_of(browser: Browser, url: str) -> Any:
    page = await browser.page(url)
    found = json.loads(await page.until(bool))
    assert page.errors == []
    return found


@pytest.mark.real_part
async def test_a_page_of_a_foreign_origin_in_a_real_browser_reads_nothing_and_changes_nothing(
    browser: Browser, tmp_path: Path, model: ModelServer
) -> None:
    quick = {"CHATBOT_SERVER_STREAM_CLOSE_TIMEOUT_S": "0.1"}  # Chromium keeps the connection of the feed that it hides
    async with hosting(ATTACK) as address:
        foreign = address.replace("127.0.0.1", NAME)
        async with serving(tmp_path, model.url, **quick) as service:
            session_id = await service.session(title="SECRET")
            await service.chat(session_id, "SECRET")
            before = service.services.log.head()
            found = await result_of(browser, f"{foreign}{service.client.base_url}/api/sessions/{session_id}")
            assert {name: answer for name, answer in found.items() if answer not in ("blocked", "opaque")} == {}
            assert service.services.log.head() == before
        async with serving(tmp_path, model.url, CORS_ORIGINS=origin_of(foreign), **quick) as service:
            found = await result_of(browser, f"{foreign}{service.client.base_url}/api/sessions/{session_id}")
            assert {name for name, answer in found.items() if "SECRET" in answer} == {"list", "history", "log", "feed"}
            assert found["delete"].startswith("204"), "the page can do all of it where it is let"


@pytest.mark.real_part
async def test_a_page_whose_name_is_bound_to_this_machine_gets_a_refusal_that_names_the_setting(
    browser: Browser, tmp_path: Path, model: ModelServer
) -> None:
    async with hosting(REBINDING) as address:
        page = await browser.page(address.replace("127.0.0.1", NAME))
    port = origin_of(address).rpartition(":")[2]
    async with serving(tmp_path, model.url, PORT=port) as service:
        read, problem, written, _ = json.loads(await page.until(bool))
        assert (read, written) == (403, 403)
        assert f"Host is '{NAME}:{port}'" in problem
        assert "server.hosts" in problem
        assert service.services.log.head().position == 0


async def test_a_write_of_a_foreign_origin_is_refused_before_its_body_and_its_key_are_looked_at(
    service: Running,
) -> None:
    answer = await service.client.post("/api/chat", content=b"{", headers={"Origin": PAGE})
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["type"] == "/problems/origin-not-allowed"
    assert PAGE in answer.json()["detail"]
    assert "server.cors_origins" in answer.json()["detail"]
    assert "access-control-allow-origin" not in answer.headers
    assert (await service.client.post("/api/sessions", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert (await service.client.get("/api/sessions", headers={"Host": NAME})).status_code == 403
    assert service.services.log.head().position == 0


async def test_by_default_no_origin_is_let_in(service: Running) -> None:
    headers = {"Origin": PAGE, "Access-Control-Request-Method": "DELETE"}
    preflight = await service.client.options("/api/chat", headers=headers)
    for answer in (preflight, await service.client.get("/api/sessions", headers=headers)):
        assert answer.status_code < 300
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origins", ["*", f"https://other.example,{PAGE}"])
async def test_configured_origins_read_and_write(tmp_path: Path, model: ModelServer, origins: str) -> None:
    async with serving(tmp_path, model.url, CORS_ORIGINS=origins) as service:
        asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        preflight = await service.client.options("/api/chat", headers=asked)
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        headers = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
        written = await service.client.post("/api/sessions", headers=headers)
        assert written.status_code == 201
        for answer in (preflight, written, await service.client.get("/livez", headers=headers)):
            assert answer.headers["Access-Control-Allow-Origin"] == ("*" if origins == "*" else PAGE)
            assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
        foreign = await service.client.post("/api/sessions", headers={"Origin": "https://evil.example"})
        assert foreign.status_code == (201 if origins == "*" else 403)


async def test_with_keys_a_foreign_page_and_a_foreign_name_are_refused_all_the_same(
    tmp_path: Path, model: ModelServer
) -> None:
    secret = "a-long-secret-of-hers"
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=f"mina:{secret}") as service:
        headers = {"Authorization": f"Bearer {secret}"}
        assert (await service.client.post("/api/sessions", headers=headers)).status_code == 201
        assert (await service.client.post("/api/sessions", headers={**headers, "Origin": PAGE})).status_code == 403
        assert (await service.client.get("/api/sessions", headers={**headers, "Host": NAME})).status_code == 403
