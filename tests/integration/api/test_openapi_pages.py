"""/openapi.json, /docs and /redoc: served whole, from here alone, and shown by a real browser."""

import asyncio
import gzip
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from blockbuster import blockbuster_ctx
from yarl import URL

from chatbot.api.access.ticket_scope import TICKET_PATHS
from chatbot.api.app import build_app
from chatbot.api.openapi.document import build_openapi_document
from chatbot.api.openapi.examples import FILE_SHA256, SESSION
from chatbot.api.responses import StaticFile
from chatbot.api.routes import documentation_routes
from chatbot.api.server.http_server import HttpRunner
from chatbot.api.services import Readiness, Services
from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.config.settings import Settings
from chatbot.keys.key_registry import KeyRegistry
from chatbot.observability.metrics import Metrics
from chatbot.sessions.domain.rejections import SessionNotFound
from tests.support.log.memory_log import MemoryLog
from tests.support.model.manual_provider import ManualProvider

NONE: dict[str, Any] = {"parameters": []}
LOCKED = Settings(auth=AuthSettings(keys={"alice": "correct-horse-battery"}))
CALLS = build_openapi_document(Settings(), "1.2.3")["paths"]
MESSAGE = SESSION  # any UUID
WITHOUT_SESSION = (  # calls that name no session in their path or body
    "/api/media",
    "/api/tickets",
    "/api/ui/chat",
    "/api/agui",
    "/api/erasures",
    "/api/holds",
    "/api/holds/forget",
    "/api/holds/{hold_id}/release",
    "/api/keys",
    "/api/keys/{key_name}",
    "/api/keys/{key_name}/rotate",
    "/witness/add-checkpoint",
)
BROWSER = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=8000", "--dump-dom", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
PLAIN = {"Accept-Encoding": "identity"}


Client = TestClient[web.Request, web.Application]


class Server(TestServer):
    """The application behind the service's own HTTP server."""

    async def _make_runner(self, **options: Any) -> HttpRunner:
        return HttpRunner(self.app, access_log=None, **options)


async def ask(*_: object, **__: object) -> None:
    raise SessionNotFound(SESSION)


def client_of(settings: Settings) -> Client:
    """The service as far as these tests need it: it has no session."""
    parts = SimpleNamespace(
        settings=settings,
        keys=KeyRegistry(settings.auth, MemoryLog(), lambda: 0),
        version="1.2.3",
        metrics=Metrics("1.2.3"),
        logger=structlog.get_logger(),
        supervisor=SimpleNamespace(ask=ask, draining=False, running_reply=None),
        session_queries=SimpleNamespace(with_metadata=None, peek=ask, find_recorded=ask),
        queries=SimpleNamespace(session=ask),
        holds=SimpleNamespace(version=ask),
        feeds=None,
        new_id=lambda: SESSION,
        clock=lambda: 0,
        new_token=lambda: "0" * 32,
        readiness=Readiness(),
        health=None,  # no problem here is the model's
        provider=ManualProvider(),
        limiter=None,
        log=None,  # readiness is not asked here
        log_metrics=None,
        log_writer=None,
        has_writer=lambda: True,
    )
    return TestClient(Server(build_app(cast(Services, parts))), auto_decompress=False)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    documentation_routes._cache.files.clear()  # so that every test reads the files as the first request does
    async with client_of(LOCKED) as started:
        yield started


async def test_the_document_is_served_to_everyone_with_the_settings_in_force(client: Client) -> None:
    async with client.get("/openapi.json", headers=PLAIN) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.json() == build_openapi_document(LOCKED, "1.2.3")
    other = Settings(chat=ChatSettings(message_max_chars=77))
    async with client_of(other) as second, second.get("/openapi.json", headers=PLAIN) as answer:
        assert await answer.json() == build_openapi_document(other, "1.2.3")


@pytest.mark.parametrize("path", ["/openapi.json", *documentation_routes.FILES])
async def test_every_file_is_served_with_its_type_and_may_be_kept(client: Client, path: str) -> None:
    async with client.get(path, headers=PLAIN) as answer:
        body = await answer.read()
    assert answer.status == 200
    assert answer.content_type == documentation_routes.FILES.get(path, ("", "application/json"))[1]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == ("public, max-age=3600" if path.count("/") == 2 else "no-cache")
    async with client.get(path, headers={"Accept-Encoding": "gzip, br"}) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await packed.read()) == body
    async with client.get(path, headers={"If-None-Match": answer.headers["ETag"]}) as unchanged:
        assert (unchanged.status, await unchanged.read()) == (304, b"")
    async with client.head(path, headers=PLAIN) as head:
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(body)))


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_page_asks_for_nothing_but_what_is_served_here(client: Client, page: str) -> None:
    async with client.get(page, headers=PLAIN) as answer:
        text = await answer.text()
    assert "//" not in re.sub(r"\s// .*", "", text), "no address of another host, nor a relative one without a scheme"
    wanted = re.findall(r'(?:src|href|spec-url|url)[=:] ?"([^"]+)"', text)
    assert len(wanted) >= 4
    for path in wanted:
        async with client.get(f"/{path}") as part:
            assert part.status == 200, path
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert not re.search(r"https?:|\*|unsafe-eval|script-src[^;]*unsafe-inline", policy)


async def test_no_script_names_the_host_of_its_makers_logo(client: Client) -> None:
    async with client.get("/redoc/redoc.standalone.js", headers=PLAIN) as answer:
        script = await answer.read()
    assert b"cdn.redoc.ly" not in script
    assert b'"redoc/logo-mini.svg"' in script


@pytest.mark.parametrize(
    "path",
    [
        "/docs/index.html",
        "/docs/",
        "/docs/docs.html",
        "/docs/redoc.standalone.js",
        "/docs/..%2Fredoc",
        "/docs/%2e%2e%2fredoc",
        "/docs/..%2F..%2Fapi%2Fapp.py",
        "/docs/%2Fetc%2Fpasswd",
        "/docs/..%5Cdocs.html",
        "/docs/swagger-ui.css%00",
        "/redoc/../../../../etc/passwd",
    ],
)
async def test_no_path_leads_to_another_file(client: Client, path: str) -> None:
    async with client.session.get(URL(f"http://{client.host}:{client.port}{path}", encoded=True)) as answer:
        assert answer.status in (400, 401, 404)  # 401: outside of /docs/ and /redoc/ a key is asked for
        assert answer.content_type == "application/problem+json"
    assert not documentation_routes._cache.files, "nothing was read"


async def test_files_are_read_once_and_off_the_event_loop(client: Client) -> None:
    with blockbuster_ctx():
        async with client.get("/docs/swagger-ui-bundle.js") as answer:
            assert answer.status == 200
    kept = documentation_routes._cache.files["/docs/swagger-ui-bundle.js"]
    async with client.get("/docs/swagger-ui-bundle.js") as answer:
        assert answer.status == 200
    assert documentation_routes._cache.files["/docs/swagger-ui-bundle.js"] is kept


async def test_many_first_requests_at_once_read_a_file_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = documentation_routes._read

    def noted(path: str) -> StaticFile:
        read.append(path)
        return real(path)

    async def status() -> int:
        async with client.get("/docs/swagger-ui.css") as answer:
            return answer.status

    monkeypatch.setattr(documentation_routes, "_read", noted)
    assert set(await asyncio.gather(*(status() for _ in range(20)))) == {200}
    assert read == ["/docs/swagger-ui.css"]


def parameters(operation: dict[str, Any], place: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in operation["parameters"] if one.get("in") == place}


def is_of_openai(path: str) -> bool:
    """Whether the call has OpenAI's form, which tests/integration/v1 covers."""
    return path.startswith("/v1/")


@pytest.mark.parametrize(
    "path",
    [path for path, calls in CALLS.items() if parameters(calls.get("get", NONE), "query") and not is_of_openai(path)],
)
async def test_the_documented_query_is_the_one_that_is_known(path: str) -> None:
    documented = parameters(CALLS[path]["get"], "query")
    url = path.format(session_id=SESSION, sha256=FILE_SHA256)
    async with client_of(Settings()) as client, client.get(url, params={"misspelt": "1"}) as answer:
        detail = (await answer.json())["detail"]
    known = set(detail.partition("known are ")[2].split(", ")) - {"metadata.<key>"}  # documented as an exploded object
    known -= {"ticket"} if path in TICKET_PATHS else set()  # documented as a way to authenticate
    assert known == {name for name, one in documented.items() if not one.get("explode")}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for path, calls in CALLS.items()
        for method in calls
        if method != "get" and path not in WITHOUT_SESSION and not is_of_openai(path)
    ],
)
async def test_the_calls_that_heed_if_match_are_the_ones_that_say_so(method: str, path: str) -> None:
    operation = CALLS[path][method]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = [example["value"] for example in content.get("examples", {}).values()] or [None]
    says_so = {"$ref": "#/components/parameters/If-Match"} in operation["parameters"]
    async with client_of(Settings()) as client:
        for body in examples:
            for headers in ({}, {"If-Match": "nonsense"}):
                url = path.format(session_id=SESSION, message_id=MESSAGE)
                async with client.request(method, url, json=body, headers=headers) as answer:
                    assert answer.status == (400 if says_so and headers else 404), await answer.text()


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or pytest.skip("needs Chromium")


async def rendered(url: str, profile: Path) -> tuple[str, list[str]]:
    """The page as a browser without any other host shows it, and what its console says."""
    process = await asyncio.create_subprocess_exec(
        chromium(), *BROWSER, f"--user-data-dir={profile}", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            page, logged = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return page.decode(), [line for line in logged.decode(errors="replace").splitlines() if "CONSOLE" in line]


@pytest.mark.real_part
async def test_a_browser_without_internet_shows_both_pages_and_complains_of_nothing(
    client: Client, tmp_path: Path
) -> None:
    chromium()
    base = f"http://127.0.0.1:{client.port}"
    (swagger, swagger_says), (redoc, redoc_says) = await asyncio.gather(
        rendered(f"{base}/docs", tmp_path / "swagger"), rendered(f"{base}/redoc", tmp_path / "redoc")
    )
    assert swagger_says == []
    assert redoc_says == []
    assert "Post a message and stream the reply" in swagger
    assert "Authorize" in swagger
    assert "Post a message and stream the reply" in redoc
    assert "안녕하세요!" in redoc
