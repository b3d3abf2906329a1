"""The floor for an open reader: an aiohttp handler that sends one frame and waits.

A script: floor_sse_server.py PORT
"""

import asyncio
import contextlib
import sys

from aiohttp import web

FRAME = b'id: 1:0\ndata: {"type":"session"}\n\n'


async def follow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(FRAME)
    await asyncio.get_running_loop().create_future()
    return response


async def ready(request: web.Request) -> web.Response:
    return web.Response()


def main() -> None:
    app = web.Application()
    app.router.add_get("/api/sessions/{session_id}/stream", follow)
    app.router.add_get("/readyz", ready)
    loop: asyncio.AbstractEventLoop | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        loop = uvloop.new_event_loop()
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=1,
        loop=loop,
    )


if __name__ == "__main__":
    main()
