"""The floor: the thinnest reverse proxy that aiohttp makes. It keeps nothing, parses nothing and records nothing."""

import argparse
import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from tests.bench.harness.bench_loop import loop_factory

BACKLOG = 1024
ROUTES = {
    "midm": {"/api/chat": "/chat", "/api/chat/stream": "/chat/stream"},
    "openai": {"/api/chat": "/v1/chat/completions", "/api/chat/stream": "/v1/chat/completions"},
}
JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


class Relay:
    """Bytes in, the same bytes out."""

    def __init__(self, model_url: str, protocol: str) -> None:
        self._paths = {path: model_url + target for path, target in ROUTES[protocol].items()}
        self._session: aiohttp.ClientSession

    async def open(self, _app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            yield

    async def whole(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._session.post(self._paths[request.path], data=body, headers=JSON) as response:
            return web.Response(body=await response.read(), status=response.status, headers=JSON)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with self._session.post(self._paths[request.path], data=body, headers=JSON) as response:
            answer = web.StreamResponse(status=response.status, headers=EVENTS)
            await answer.prepare(request)
            async for data in response.content.iter_any():
                await answer.write(data)
            await answer.write_eof()
            return answer


async def ready(_request: web.Request) -> web.Response:
    return web.Response()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model-url", required=True)
    parser.add_argument("--protocol", choices=tuple(ROUTES), default="midm")
    options = parser.parse_args()
    relay = Relay(options.model_url, options.protocol)
    app = web.Application()
    app.cleanup_ctx.append(relay.open)
    app.router.add_post("/api/chat", relay.whole)
    app.router.add_post("/api/chat/stream", relay.stream)
    app.router.add_get("/readyz", ready)
    make_loop = loop_factory() or asyncio.new_event_loop
    web.run_app(
        app, host="127.0.0.1", port=options.port, access_log=None, print=None, backlog=BACKLOG, loop=make_loop()
    )


if __name__ == "__main__":
    main()
