"""Files: upload one, read one."""

import asyncio
import re
from collections.abc import AsyncIterator

from aiohttp import ETag, web

from chatbot.api.access.authorization import CALLER
from chatbot.api.access.ticket_scope import TICKET
from chatbot.api.media.media_access import MediaAccess
from chatbot.api.media.media_uploads import UPLOADS
from chatbot.api.middleware import PRIVATE, require_accepting
from chatbot.api.problems import Problem, RequestFault
from chatbot.api.request_queries import check_query
from chatbot.api.requests import canonical_id
from chatbot.api.response_bodies import UploadView
from chatbot.api.responses import json_response
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.api.streaming.response_stream import STREAMS
from chatbot.runtime.clock import timestamp
from events.errors import LogError
from events.media import MEDIA_CHUNK_BYTES, MediaMissing

PACE_BYTES = 1 << 20  # of a file, within server.body_timeout_s: a slow client would keep others from uploading
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
routes = web.RouteTableDef()


@routes.post("/api/media")
async def upload(request: web.Request) -> web.Response:
    """The body is the file. It goes to disk piece by piece; the answer says that it is there."""
    services = request.app[SERVICES]
    check_query(request, frozenset())
    require_accepting(request)
    chunks = _chunks(request, services.settings.server.body_timeout_s)
    kept = await request.app[UPLOADS].put(
        services.log.media, chunks, request[CALLER], now_us=services.clock(), size=request.content_length
    )
    stat = kept.stat
    prefix = prefix_of(request, services.settings.server)
    view = UploadView(stat.sha256, stat.media_type, stat.bytes, timestamp(kept.expires_at_us))
    return json_response(view, status=201, headers={"Location": f"{prefix}/api/media/{stat.sha256}"})


async def _chunks(request: web.Request, timeout_s: float) -> AsyncIterator[bytes]:
    """The body in pieces; `timeout_s` is for each PACE_BYTES of it. Raises RequestFault."""
    loop = asyncio.get_running_loop()
    deadline_s, paced_bytes = loop.time() + timeout_s, 0
    try:
        while True:
            async with asyncio.timeout_at(deadline_s):
                piece = await request.content.read(MEDIA_CHUNK_BYTES)
            if not piece:
                return
            read_s = loop.time()
            yield piece
            deadline_s += loop.time() - read_s  # the time that the disk took is not the client's
            paced_bytes += len(piece)
            if paced_bytes >= PACE_BYTES:
                deadline_s, paced_bytes = loop.time() + timeout_s, 0
    except TimeoutError:
        raise RequestFault("the file did not arrive in time", status=408, kind="timeout", title="Timeout") from None
    except web.RequestPayloadError as error:
        why = f"the file stopped before its end or is not what the headers say ({type(error).__name__})"
        raise RequestFault(why, status=400, kind="cut-body", title="Cut body") from error


@routes.get("/api/media/{sha256}")
async def download(request: web.Request) -> web.StreamResponse:
    """The file, or one range of it (RFC 9110, 14). Never tells a file that is not there from one of others."""
    services = request.app[SERVICES]
    check_query(request, frozenset({"session_id", TICKET}))
    sha256, session_id = request.match_info["sha256"], request.query.get("session_id")
    if session_id is not None:
        session_id = canonical_id(session_id)
        if session_id is None:
            raise RequestFault("is not a UUID", "query.session_id")
    media = services.log.media
    if not _SHA256.fullmatch(sha256):
        raise _not_found()
    stat = (await media.stat([sha256])).get(sha256)
    access = MediaAccess(media, services.queries, services.session_queries, request[CALLER])
    may_read = await access.may_read(sha256, session_id)  # also of no file: or the time would tell that there is one
    if stat is None or not may_read:
        raise _not_found()
    headers = {
        "Content-Type": stat.media_type,
        "ETag": f'"{sha256}"',
        "Cache-Control": PRIVATE,
        "Accept-Ranges": "bytes",
        "Content-Disposition": "inline",
        # A file never acts as a page of this origin, whatever a browser takes it for.
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    known = request.if_none_match or ()
    if ETag("*") in known or sha256 in [tag.value for tag in known]:
        return web.Response(status=304, headers=headers)
    start, end = _requested_range(request, sha256, stat.bytes)
    if end - start < stat.bytes:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stat.bytes}"
    response = web.StreamResponse(status=206 if end - start < stat.bytes else 200, headers=headers)
    response.content_length = end - start
    if request.method == "HEAD":
        return response
    with request.app[STREAMS].limit.acquire(request[CALLER].owner):
        await _send(request, response, media.read(sha256, start, end))
    return response


def _not_found() -> Problem:
    return Problem(404, "no-such-file", "File not found", "there is no such file, or it belongs to others")


def _requested_range(request: web.Request, sha256: str, size: int) -> tuple[int, int]:
    """Where the answer begins, and before where it ends: all of the file unless the client asks for one range of it.

    Raises Problem 416 for a range behind its end.
    """
    if_range = request.headers.get("If-Range")
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    if found is None or if_range not in (None, f'"{sha256}"'):
        return 0, size
    first, last = found[1], found[2]
    if not first and not last:
        return 0, size
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return 0, size  # malformed, so it is ignored
    if start >= end:
        why = f"the file has {size} bytes"
        raise Problem(416, "range-not-satisfiable", "Range not satisfiable", why, size=size)
    return start, end


async def _send(request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes]) -> None:
    """The first piece is read before the headers are sent, so that its errors are answered as problems."""
    try:
        piece = await anext(pieces)
    except MediaMissing:
        raise _not_found() from None
    await response.prepare(request)
    try:
        await response.write(piece)
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
    except ConnectionError:  # the reader has left
        pass
    except LogError as error:
        # Not the whole file: the connection ends before the announced length.
        request.app[SERVICES].logger.warning("document.cut", reason=str(error))
        if request.transport is not None:
            request.transport.abort()
