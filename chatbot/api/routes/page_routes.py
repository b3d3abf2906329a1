"""The chat page at /, and the files it is made of.

The service serves all of them itself. The page's Content-Security-Policy stops its scripts from contacting other hosts
and from making HTML out of text.
"""

import asyncio

from aiohttp import web
from msgspec import Struct

from chatbot.api.responses import REVALIDATE, StaticFile, file_response, make_file
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.web.assets import VERSION_CHARS, Assets, read_assets

CACHE_ONE_YEAR = "public, max-age=31536000, immutable"
_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",  # blob: pictures that need a key, and those that are about to be sent
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",  # no code makes HTML: what a model writes becomes elements, one by one
    )
)
PAGE_HEADERS = {
    "Content-Security-Policy": _CSP,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_HTML_RANGES = frozenset({"text/html", "text/*", "*/*"})  # in Accept


class PageFiles(Struct):
    """The assets of the page, the compressed files made of them, and the newest index with the prefix it has."""

    assets: Assets
    files: dict[str, StaticFile]
    index: tuple[str, StaticFile] | None = None


class PageCache(Struct):
    """Read at the first request. `lock` is held meanwhile, so that simultaneous requests do not read again."""

    lock: asyncio.Lock
    content: PageFiles | None = None


PAGE_CACHE: web.AppKey[PageCache] = web.AppKey("page_cache", PageCache)
routes = web.RouteTableDef()


@routes.get("/")
async def page(request: web.Request) -> web.Response:
    """Raises HTTPNotFound if the page is switched off, or to clients that accept no HTML."""
    if not _accepts_html(request.headers.get("Accept", "*/*")):
        raise web.HTTPNotFound
    files = await _page_files(request)
    prefix = prefix_of(request, request.app[SERVICES].settings.server)
    if files.index is None or files.index[0] != prefix:
        made = make_file(files.assets.index_for(prefix), "text/html", REVALIDATE)
        made.headers.update(PAGE_HEADERS, Vary="Accept, Accept-Encoding")
        files.index = prefix, made
    return file_response(request, files.index[1])


@routes.get(f"/assets/{{version:[0-9a-f]{{{VERSION_CHARS}}}}}/{{path:.+}}")
async def asset(request: web.Request) -> web.Response:
    """Raises HTTPNotFound for what is not in the table: no path leads to any other file.

    While nodes and workers are upgraded, a page may ask for the files of another version. It gets those that are here,
    and may not keep them under that address.
    """
    files = await _page_files(request)
    found = files.files.get(request.match_info["path"])
    if found is None:
        raise web.HTTPNotFound
    response = file_response(request, found)
    if request.match_info["version"] != files.assets.version:
        response.headers["Cache-Control"] = REVALIDATE
    return response


async def _page_files(request: web.Request) -> PageFiles:
    if not request.app[SERVICES].settings.server.chat_page:
        raise web.HTTPNotFound
    cache = request.app[PAGE_CACHE]
    if cache.content is None:
        async with cache.lock:
            if cache.content is None:  # else another request has read them in the meantime
                cache.content = await asyncio.to_thread(_read)
    return cache.content


def _read() -> PageFiles:
    assets = read_assets()
    files = {}
    for path, one in assets.files.items():
        made = files[path] = make_file(one.body, one.content_type, CACHE_ONE_YEAR)
        made.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if one.content_type == "image/svg+xml":
            made.headers["Content-Security-Policy"] = (
                "default-src 'none'; style-src 'unsafe-inline'"  # opened by itself
            )
    return PageFiles(assets, files)


def _accepts_html(accept: str) -> bool:
    ranges = (one.partition(";")[0].strip().lower() for one in accept.split(","))
    return not _HTML_RANGES.isdisjoint(ranges)
