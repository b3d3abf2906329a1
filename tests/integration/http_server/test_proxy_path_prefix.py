"""Behind a real nginx that publishes the service under a path, everything that it says of itself leads back to it."""

import re
from pathlib import Path

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.programs.nginx import nginx
from tests.support.service import serving

pytestmark = [pytest.mark.real_part, requires_program("nginx")]

KEPT, TAKEN_OFF = "", "/"
TRUSTED = {"CHATBOT_SERVER_TRUSTED_PROXIES": "127.0.0.0/8"}
OWN = {"CHATBOT_SERVER_PATH_PREFIX": "/chat"}
SAID = "proxy_set_header X-Forwarded-Prefix /chat;"


@pytest.mark.parametrize(
    ("settings", "target", "extra"),
    [
        pytest.param(TRUSTED, TAKEN_OFF, SAID, id="header"),
        pytest.param(OWN, TAKEN_OFF, "", id="setting"),
        pytest.param(OWN, KEPT, "", id="setting, path kept"),
        pytest.param(OWN | TRUSTED, KEPT, SAID, id="both"),
    ],
)
async def test_everything_leads_back_under_the_prefix(
    tmp_path: Path, model: ModelServer, settings: dict[str, str], target: str, extra: str
) -> None:
    async with (
        serving(tmp_path, model.url, **settings) as service,
        nginx(tmp_path / "nginx", str(service.client.base_url), extra, location="/chat/", target=target) as proxy,
        httpx.AsyncClient(base_url=proxy.url, timeout=30) as browser,
    ):
        made = await browser.post("/chat/api/sessions", json={"title": "T"})
        location = made.headers["Location"]
        assert location == f"/chat/api/sessions/{made.json()['session_id']}"
        assert (await browser.get(location)).json()["title"] == "T"
        forked = await browser.post(f"{location}/fork")
        assert forked.headers["Location"].startswith("/chat/api/sessions/")
        listed = await browser.get("/chat/api/sessions", params={"limit": 1})
        assert len(listed.json()["sessions"]) == 1
        (server,) = (await browser.get("/chat/openapi.json")).json()["servers"]
        assert server == {"url": "/chat"}
        for page in ("/chat/docs", "/chat/redoc"):
            text = (await browser.get(page)).text
            links = re.findall(r'(?:href|src|spec-url)="([^"]+)"|url: "([^"]+)"', text)
            assert len(links) >= 3
            for link in (one or other for one, other in links):
                found = await browser.get(str(httpx.URL(proxy.url + page).join(link)))
                assert found.status_code == 200, link
        body = {"session_id": made.json()["session_id"], "message": "hi"}
        accepted = await browser.post("/chat/api/chat", json=body, headers={"Prefer": "respond-async"})
        assert accepted.headers["Location"] == f"{location}/stream?after={accepted.json()['cursor']}"
        missing = await browser.get("/chat/api/sessions/none")
        assert missing.json()["type"] == "/chat/problems/session-not-found"
        assert "Session not found" in (await browser.get(missing.json()["type"])).text
        assert (await browser.get("/chat/livez")).status_code == 200
        assert (await browser.get("/api/sessions")).status_code == 404, "nginx serves nothing there"


async def test_a_prefix_of_whom_nobody_trusts_changes_nothing(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        headers = {"X-Forwarded-Prefix": "/evil"}
        made = await service.client.post("/api/sessions", headers=headers)
        assert made.headers["Location"].startswith("/api/sessions/")
        (server,) = (await service.client.get("/openapi.json", headers=headers)).json()["servers"]
        assert server == {"url": "."}
