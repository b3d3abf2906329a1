"""/ and the files of the chat page: served whole, from here alone, to be kept; and nothing else is served."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from blockbuster import blockbuster_ctx

from chatbot.api.responses import make_file
from chatbot.api.routes import page_routes
from chatbot.web.assets import read_assets
from tests.support.model.model_server import ModelServer
from tests.support.page_files import links_of
from tests.support.service import Running, program, serving

KEYS = {"CHATBOT_API_KEYS": "alice:correct-horse-battery"}
ASSETS = read_assets()
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def service(tmp_path: Path, model: ModelServer) -> AsyncIterator[Running]:
    async with serving(tmp_path, model.url, **KEYS) as running:
        yield running


async def test_the_page_needs_no_key_and_is_asked_for_each_time(service: Running) -> None:
    answer = await service.client.get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.text == ASSETS.index_for("").decode()
    assert {name: answer.headers[name] for name in page_routes.PAGE_HEADERS} == page_routes.PAGE_HEADERS
    known = {**BROWSER, "If-None-Match": answer.headers["ETag"]}
    again = await service.client.get("/", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert (await service.client.head("/", headers=BROWSER)).status_code == 200


async def test_the_policy_admits_this_host_and_no_inline_code(service: Running) -> None:
    policy = (await service.client.get("/")).headers["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["trusted-types"] == "'none'"
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        pytest.param("*/*", 200, id="curl"),
        pytest.param("text/html;q=0.5, application/json", 200, id="either"),
        pytest.param("application/json", 404, id="json"),
        pytest.param("application/problem+json, application/json", 404, id="problem"),
    ],
)
async def test_a_client_of_the_api_gets_a_problem_at_the_root(service: Running, accept: str, status: int) -> None:
    answer = await service.client.get("/", headers={"Accept": accept})
    assert answer.status_code == status
    if status == 404:
        assert answer.headers["Content-Type"] == "application/problem+json"


async def test_every_file_is_served_with_its_type_and_may_be_kept_for_a_year(service: Running) -> None:
    for path, asset in ASSETS.files.items():
        url = f"/assets/{ASSETS.version}/{path}"
        answer = await service.client.get(url)
        assert (answer.status_code, answer.content) == (200, asset.body), path
        assert answer.headers["Content-Type"].partition(";")[0] == asset.content_type
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Encoding"] == "gzip"
        again = await service.client.get(url, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        plain = await service.client.head(url, headers={"Accept-Encoding": "identity"})
        assert plain.headers["Content-Length"] == str(len(asset.body))


async def test_files_of_another_version_are_the_present_ones_and_not_to_be_kept(service: Running) -> None:
    answer = await service.client.get(f"/assets/{'0' * 16}/page/app.js")
    assert (answer.status_code, answer.content) == (200, ASSETS.files["page/app.js"].body)
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "page/index.html",
        "page/",
        "page",
        "",
        "assets.py",
        "page/../assets.py",
        "page/..%2Fassets.py",
        "%2Fetc%2Fpasswd",
        "page/app.js%00",
        "page/../../../../../../etc/passwd",
    ],
)
async def test_no_path_leads_to_another_file(service: Running, path: str) -> None:
    answer = await service.client.get(f"/assets/{ASSETS.version}/{path}")
    assert answer.status_code in (401, 404)  # 401: outside of /assets/ a key is asked for
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_the_links_are_under_the_path_of_a_proxy(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SERVER_PATH_PREFIX="/team/chat") as service:
        text = (await service.client.get("/team/chat/", headers=BROWSER)).text
        assert f'src="/team/chat/assets/{ASSETS.version}/page/app.js"' in text
        for paths in links_of(ASSETS).values():
            for path in paths:
                asset = await service.client.get(f"/team/chat/assets/{ASSETS.version}/{path}")
                assert asset.status_code == 200, path


async def test_the_page_can_be_switched_off(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SERVER_CHAT_PAGE="false") as service:
        for path in ("/", f"/assets/{ASSETS.version}/page/app.js"):
            answer = await service.client.get(path, headers=BROWSER)
            assert answer.status_code == 404
            assert answer.headers["Content-Type"] == "application/problem+json"


async def test_files_are_read_once_and_off_the_event_loop(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    real = page_routes._read

    def counted() -> page_routes.PageFiles:
        nonlocal read
        read += 1
        return real()

    monkeypatch.setattr(page_routes, "_read", counted)
    with blockbuster_ctx():
        answers = await asyncio.gather(*(service.client.get("/") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert read == 1


async def test_all_workers_serve_the_same_version(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url, "--workers", "2") as running:
        for _ in range(8):  # each connection goes to any of the workers
            async with httpx.AsyncClient(base_url=running.url) as client:
                raw = await client.get("/", headers={"Accept-Encoding": "identity"})
                assert raw.content == ASSETS.index_for("")
                asset = await client.get(f"/assets/{ASSETS.version}/page/app.js")
                assert asset.headers["Cache-Control"].endswith("immutable")


def test_compressed_files_are_the_same_in_every_process() -> None:
    body = ASSETS.files["page/style.css"].body
    made = [make_file(body, "text/css", "no-cache").compressed for _ in range(2)]
    assert made[0] == made[1]
    assert gzip.decompress(made[0]) == body
