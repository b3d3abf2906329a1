"""Keys and tickets through a real nginx: headers and addresses pass, and a revoked key's streams end behind it, too."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.http.feed_reader import FeedReader
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.programs.nginx import nginx
from tests.support.service import serving

pytestmark = [pytest.mark.real_part, requires_program("nginx")]

ROOT = {"Authorization": "Bearer the-secret-of-root"}
SETTINGS = {"CHATBOT_API_KEYS": "root:the-secret-of-root", "CHATBOT_AUTH_ADMINS": "root"}
CHANGES = "/api/sessions/changes"


@pytest.fixture
async def browser(tmp_path: Path, model: ModelServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client that asks nginx, in front of a service with keys."""
    async with (
        serving(tmp_path, model.url, **SETTINGS) as service,
        nginx(tmp_path / "nginx", str(service.client.base_url)) as proxy,
        httpx.AsyncClient(base_url=proxy.url, timeout=30) as client,
    ):
        yield client


async def test_a_key_is_made_used_and_revoked_through_nginx(browser: httpx.AsyncClient) -> None:
    made = await browser.post("/api/keys", json={"name": "app", "scopes": ["chat"]}, headers=ROOT)
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    app = {"X-API-Key": made.json()["secret"]}
    session_id = (await browser.post("/api/sessions", headers=app)).json()["session_id"]
    ticket = (await browser.post("/api/tickets", headers=app)).json()["ticket"]
    async with (
        browser.stream("GET", CHANGES, params={"ticket": ticket, "after": "0"}) as by_ticket,
        browser.stream("GET", f"/api/sessions/{session_id}/stream", headers=app) as by_key,
    ):
        changes, feed = FeedReader(by_ticket), FeedReader(by_key)
        assert (await changes.next())["type"] == "ready"
        assert (await feed.next())["type"] == "session"
        assert (await browser.delete("/api/keys/app", headers=ROOT)).status_code == 204
        assert (await last_type(changes), await last_type(feed)) == ("end", "end")
    for refused in (
        await browser.get(CHANGES, params={"ticket": ticket}),
        await browser.get("/api/sessions", headers=app),
    ):
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")


async def last_type(reader: FeedReader) -> str:
    """How a stream ends that nginx passes on: it may close it well although the service has cut it."""
    try:
        while (frame := await reader.next())["type"] != "end":
            pass
    except httpx.RemoteProtocolError:
        return "end"
    return str(frame["type"])
