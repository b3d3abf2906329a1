"""A web site of another origin than the service: it serves one page to a browser."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from yarl import URL

PAGE = """<!doctype html><meta charset="utf-8"><title>chat</title><pre id="shown"></pre>
<script type="module">
const service = new URL(location).searchParams.get("session");
const shown = document.querySelector("#shown");
{script}
</script>
"""


@asynccontextmanager
async def hosting(script: str) -> AsyncIterator[str]:
    """The address of a page that runs `script`, which knows `service` (append `quote(url)`) and `shown`."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.replace("{script}", script), content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/?session="
    finally:
        await runner.cleanup()


def origin_of(address: str) -> str:
    """The origin of a page at `address`, as server.cors_origins lists it."""
    return str(URL(address).origin())
