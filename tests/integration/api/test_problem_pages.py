"""The `type` of a problem leads to a page that explains it."""

import html
import re
from pathlib import Path

import pytest

from chatbot.api.problem_types import PROBLEM_TYPES
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/api/sessions/none", "session-not-found"),
        ("GET", "/nowhere", "no-such-path"),
        ("PUT", "/api/sessions", "method-not-allowed"),
        ("POST", "/api/chat", "media-type"),
        ("GET", "/api/sessions?limit=0", "invalid"),
        ("GET", f"/{'x' * 9000}", "address-too-long"),
    ],
)
async def test_the_type_of_a_problem_leads_to_its_page(service: Running, method: str, path: str, name: str) -> None:
    refused = await service.client.request(method, path)
    kind = refused.json()["type"]
    assert kind == f"/problems/{name}"
    page = await service.client.get(str(refused.url.join(kind)))
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert html.escape(PROBLEM_TYPES[name].title) in page.text
    assert f"status {refused.status_code}" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


async def test_one_page_lists_all_types_and_links_to_each(service: Running) -> None:
    listed = await service.client.get("/problems")
    links = [listed.url.join(link) for link in re.findall(r'href="([^"]+)"', listed.text)]
    assert [link.path.rpartition("/")[2] for link in links] == list(PROBLEM_TYPES)
    for link in links:
        page = await service.client.get(link)
        assert page.status_code == 200
        (back,) = re.findall(r'href="([^"]+)"', page.text)
        assert page.url.join(back).path == "/problems"
    assert (await service.client.get(listed.url, headers={"If-None-Match": listed.headers["ETag"]})).status_code == 304


async def test_a_type_that_does_not_exist_has_no_page(service: Running) -> None:
    for name in ("none", "Invalid", "%2E%2E%2Finvalid", "%3Cscript%3E"):
        assert (await service.client.get(f"/problems/{name}")).status_code == 404


async def test_the_pages_are_open_without_a_key(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS="mina:correct-horse-battery") as service:
        refused = await service.client.get("/api/sessions")
        assert refused.status_code == 401
        assert (await service.client.get(refused.json()["type"])).status_code == 200
        assert (await service.client.get("/problems")).status_code == 200
