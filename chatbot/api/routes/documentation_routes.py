"""The OpenAPI document, and two pages that show it: Swagger UI at /docs, ReDoc at /redoc.

The service serves all files itself: the pages work without internet access, and their Content-Security-Policy stops
their scripts from contacting other hosts.
"""

import asyncio
import base64
import hashlib
import re
from pathlib import Path
from typing import Any, Protocol

import msgspec
import openapi_ui_bundles
from aiohttp import web
from msgspec import Struct

import chatbot.web
from chatbot.api.responses import REVALIDATE, StaticFile, file_response, make_file
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.config.settings import Settings

PAGES = Path(chatbot.web.__file__).parent
SWAGGER, REDOC = openapi_ui_bundles.swagger_ui.static_path, openapi_ui_bundles.redoc.static_path
HTML, SCRIPT, STYLE = "text/html", "text/javascript", "text/css"

FILES: dict[str, tuple[Path, str]] = {
    # path: (file, content type). Nothing else is served, so no path can lead anywhere else.
    "/docs": (PAGES / "docs.html", HTML),
    "/docs/swagger-ui.css": (SWAGGER / "swagger-ui.css", STYLE),
    "/docs/swagger-ui-bundle.js": (SWAGGER / "swagger-ui-bundle.js", SCRIPT),
    "/docs/favicon-32x32.png": (SWAGGER / "favicon-32x32.png", "image/png"),
    "/redoc": (PAGES / "redoc.html", HTML),
    "/redoc/redoc.standalone.js": (REDOC / "redoc.standalone.js", SCRIPT),
    "/redoc/logo-mini.svg": (REDOC / "logo-mini.svg", "image/svg+xml"),
}
# ReDoc loads a logo from its vendor's host; the package contains the file, too
REDOC_LOGO_URL, REDOC_LOGO_PATH = b"https://cdn.redoc.ly/redoc/logo-mini.svg", b"redoc/logo-mini.svg"
CACHE_ONE_HOUR = "public, max-age=3600"  # they change only with the installed package
_CSP = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_inline_script = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class Cache(Struct):
    """The files that were read, at most one for each entry of FILES; and the newest document, with what it depends on:
    settings, version, path prefix, and whether there are keys."""

    files: dict[str, StaticFile]
    document: tuple[Settings, tuple[str, str, bool], StaticFile] | None = None


_cache = Cache({})
# Held while a file is read and compressed, so that a thousand simultaneous requests do not make a thousand copies.
FILE_LOCK: web.AppKey[asyncio.Lock] = web.AppKey("reading", asyncio.Lock)


class DocumentBuilder(Protocol):
    """Makes the OpenAPI document. `has_keys`: requests need an API key."""

    def __call__(self, settings: Settings, version: str, prefix: str, *, has_keys: bool) -> dict[str, Any]: ...


DOCUMENT_BUILDER: web.AppKey[DocumentBuilder] = web.AppKey("document_builder", DocumentBuilder)
routes = web.RouteTableDef()


@routes.get("/openapi.json")
async def document(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    prefix, has_keys = prefix_of(request, services.settings.server), not services.keys.is_open
    made, shown = _cache.document, (services.version, prefix, has_keys)
    if made is None or made[0] is not services.settings or made[1] != shown:
        build = request.app[DOCUMENT_BUILDER]
        body = msgspec.json.encode(build(services.settings, services.version, prefix, has_keys=has_keys))
        made = services.settings, shown, make_file(body, "application/json", REVALIDATE)
        _cache.document = made
    return file_response(request, made[2])


@routes.get("/docs")
@routes.get("/redoc")
@routes.get("/docs/{file}")
@routes.get("/redoc/{file}")
async def file(request: web.Request) -> web.Response:
    """Raises HTTPNotFound for what is not in the table."""
    path = request.path
    if path not in FILES:
        raise web.HTTPNotFound
    if path not in _cache.files:
        async with request.app[FILE_LOCK]:
            if path not in _cache.files:  # else another request has read it in the meantime
                _cache.files[path] = await asyncio.to_thread(_read, path)
    return file_response(request, _cache.files[path])


def _read(path: str) -> StaticFile:
    source, content_type = FILES[path]
    body = source.read_bytes().replace(REDOC_LOGO_URL, REDOC_LOGO_PATH)
    if content_type != HTML:
        return make_file(body, content_type, CACHE_ONE_HOUR)
    page = make_file(body, content_type, REVALIDATE)
    # the hash admits the page's own inline script, and no other
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _inline_script.findall(body))
    page.headers["Content-Security-Policy"] = _CSP.format(scripts="".join(f" 'sha256-{one}'" for one in hashes))
    page.headers["Referrer-Policy"] = "no-referrer"
    return page
