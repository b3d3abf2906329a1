"""The HTTP server calls what checks a request by itself, so an application cannot have middlewares beside it."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from chatbot.api.server.http_server import HttpRunner


@web.middleware
async def refuse_all(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.Response:
    raise web.HTTPUnauthorized(text=f"{handler} does not get {request.path}")


async def test_an_application_with_middlewares_is_refused_at_the_start() -> None:
    runner = HttpRunner(web.Application(middlewares=[refuse_all]))
    with pytest.raises(ValueError, match="calls no middlewares"):
        await runner.setup()
