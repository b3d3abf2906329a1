"""The API's document, and two pages that show it: Swagger UI at /docs, ReDoc at /redoc.

Everything is served from here and nothing is fetched from elsewhere: the pages work with no internet access, and their
Content-Security-Policy has the browser refuse whatever a page's scripts might ask of another host.
"""

import asyncio
import base64
import gzip
import hashlib
import re
from pathlib import Path

import msgspec
import openapi_ui_bundles
from aiohttp import ETag, web
from msgspec import Struct

import chatbot.web
from chatbot.api.openapi.document import build_openapi_document
from chatbot.api.responses import piecewise_body
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
# ReDoc shows its makers' logo, from their host; the package has the file as well
REDOC_LOGO_URL, REDOC_LOGO_PATH = b"https://cdn.redoc.ly/redoc/logo-mini.svg", b"redoc/logo-mini.svg"
REVALIDATE = "no-cache"  # keep it, but ask each time whether it has changed
CACHE_ONE_HOUR = "public, max-age=3600"  # an hour: they change with the installed package only
_CSP = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_inline_script = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class StaticFile(Struct, frozen=True):
    """What is served, plain and compressed, with the headers it always has."""

    body: bytes
    compressed: bytes
    etag: str
    headers: dict[str, str]


class Cache(Struct):
    """Files as read, at most one for each entry of FILES; and the document made last, with what it
    shows: settings, version and path prefix."""

    files: dict[str, StaticFile]
    document: tuple[Settings, tuple[str, str], StaticFile] | None = None


_cache = Cache({})
# Held while a file is read and compressed: a thousand requests that come at once would have a thousand copies of it.
FILE_LOCK: web.AppKey[asyncio.Lock] = web.AppKey("reading", asyncio.Lock)
routes = web.RouteTableDef()


@routes.get("/openapi.json")
async def document(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    made, shown = _cache.document, (services.version, prefix_of(request))
    if made is None or made[0] is not services.settings or made[1] != shown:
        body = msgspec.json.encode(build_openapi_document(services.settings, *shown))
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
            if path not in _cache.files:  # else another request has read it meanwhile
                _cache.files[path] = await asyncio.to_thread(_read, path)
    return file_response(request, _cache.files[path])


def file_response(request: web.Request, found: StaticFile) -> web.Response:
    headers = {"ETag": f'W/"{found.etag}"', **found.headers}  # weak: it stands for both forms
    known = request.if_none_match or ()
    if ETag("*") in known or found.etag in [tag.value for tag in known]:
        return web.Response(status=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        compressed = piecewise_body(found.compressed, shared=True)
        return web.Response(body=compressed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=piecewise_body(found.body, shared=True), headers=headers)


def _read(path: str) -> StaticFile:
    source, content_type = FILES[path]
    body = source.read_bytes().replace(REDOC_LOGO_URL, REDOC_LOGO_PATH)
    if content_type != HTML:
        return make_file(body, content_type, CACHE_ONE_HOUR)
    page = make_file(body, content_type, REVALIDATE)
    # a page's own inline script is let through by its hash; any other is not
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _inline_script.findall(body))
    page.headers["Content-Security-Policy"] = _CSP.format(scripts="".join(f" 'sha256-{one}'" for one in hashes))
    page.headers["Referrer-Policy"] = "no-referrer"
    return page


def make_file(body: bytes, content_type: str, cache_control: str) -> StaticFile:
    charset = "; charset=utf-8" if content_type.startswith("text/") else ""
    headers = {
        "Content-Type": content_type + charset,
        "Cache-Control": cache_control,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    return StaticFile(body, gzip.compress(body, 6, mtime=0), hashlib.sha256(body).hexdigest()[:32], headers)
