"""The API for other nodes, on a listener of its own: liveness, the text of a running reply, cancellation, metrics."""

import asyncio
import os
import time

import msgspec
from aiohttp import web

from chatbot.api.access.access_log import ACCESS_LOG, AccessLog
from chatbot.api.metrics_snapshot import collect_metrics
from chatbot.api.middleware import SERVER
from chatbot.api.responses import piecewise_body
from chatbot.api.services import SERVE, SERVICES, Services
from chatbot.api.streaming.response_stream import (
    STREAMS,
    FlushScheduler,
    News,
    Progress,
    ResponseStream,
    StreamContext,
    stream_response,
)
from chatbot.nodes.node_authentication import CLIENT_NONCE_MAX_CHARS, Challenger, Request
from chatbot.nodes.node_client import Alive, PartHeader, RemoteCancelBody
from chatbot.observability.metric_families import encode
from chatbot.sessions.domain.commands import Caller, CancelReply
from chatbot.sessions.domain.rejections import ActorFailed, Rejection
from chatbot.sessions.replies.growing_parts import NO_PART
from chatbot.sessions.replies.reply import Reply
from events.errors import LogError
from projections.errors import ProjectionError

HEADERS = {"Content-Type": "application/x-ndjson; charset=utf-8"}
PINGS_PER_TIMEOUT = 3  # within the time after which another node gives up a silent reply
LINE_MAX_CHARS = 65_536  # of a reply's text: the other node limits the length of lines that it reads
BODY_MAX_BYTES = 16_384  # a cause, the caller, and a key
BODY_TIMEOUT_S = 5.0  # it is read before its sender is authenticated
DIGITS_MAX = 18  # of an offset in a text

CHALLENGER: web.AppKey[Challenger] = web.AppKey("challenger", Challenger)
PUBLIC_PATHS = frozenset({"/alive", "/challenge"})  # paths without authentication

routes = web.RouteTableDef()
_cancel_body = msgspec.json.Decoder(RemoteCancelBody)


def build_node_app(services: Services, secret: str) -> web.Application:
    """The application for other nodes, which authenticate with `secret`."""
    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app[SERVICES] = services
    app[SERVE] = serve_node_request
    app[ACCESS_LOG] = AccessLog(services.settings, services.logger, None, is_on=False)  # nodes ask often
    app[STREAMS] = StreamContext.create(services.settings, services.keys, services.metrics, services.logger)
    app[CHALLENGER] = Challenger(secret, services.cluster.name or "", time.monotonic, os.urandom)
    app.add_routes(routes)
    app.on_response_prepare.append(_hide_version)
    return app


async def serve_node_request(request: web.Request, _: Services) -> web.StreamResponse:
    """Authenticate the other node, except for liveness and challenges, and call the route's handler."""
    if request.path not in PUBLIC_PATHS:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=408)
        signed_request = Request(request.method, request.raw_path, body)
        reason = request.app[CHALLENGER].refusal(request.headers.get("Authorization", ""), signed_request)
        if reason is not None:
            return web.Response(status=401, text=f"{reason}\n")
    return await request.match_info.handler(request)


async def _hide_version(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER


@routes.get("/alive")
async def alive(request: web.Request) -> web.Response:
    name = request.app[SERVICES].cluster.name or ""
    return web.Response(body=msgspec.json.encode(Alive(name)), content_type="application/json")


@routes.get("/challenge")
async def challenge(request: web.Request) -> web.Response:
    """A nonce for one request, and the proof that this node knows the secret. 400 without the client's nonce."""
    nonce = request.query.get("nonce", "")
    if not 0 < len(nonce) <= CLIENT_NONCE_MAX_CHARS:
        return web.Response(status=400)
    made = request.app[CHALLENGER].challenge(nonce)
    return web.Response(body=msgspec.json.encode(made), content_type="application/json")


@routes.get("/replies/{session_id}/{reply_id}")
async def text(request: web.Request) -> web.StreamResponse:
    """A running reply's text after a number of code points, one JSON string per line, until its end is recorded.

    Of a reply with other parts than text, a line with the part's number, kind, call and name precedes its text.
    """
    services, reply = request.app[SERVICES], _find_reply(request)
    after = request.query.get("after", "0")
    if reply is None or not after.isdecimal() or len(after) > DIGITS_MAX:
        return web.Response(status=404)
    ping_s = services.settings.nodes.failure_timeout_s / PINGS_PER_TIMEOUT
    writer = _ReplyTextWriter(request.app[STREAMS].flush_scheduler, reply, int(after))
    return await stream_response(request, writer.write, headers=HEADERS, ping_s=ping_s)


@routes.post("/replies/{session_id}/{reply_id}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """204 once the reply's end is recorded and its model request stopped; 404 if it is not written here; else 503."""
    services, reply = request.app[SERVICES], _find_reply(request)
    try:
        body = _cancel_body.decode(await request.read())
    except msgspec.DecodeError:
        return web.Response(status=400)
    if reply is None:
        return web.Response(status=404)
    command = CancelReply(body.cause, body.idempotency_key, reply.reply_id)
    caller = Caller(body.owner, body.request_id, is_service=True)  # the other node has checked the session's owner
    try:
        answer = await services.supervisor.ask(request.match_info["session_id"], command, caller)
    except (Rejection, ActorFailed, LogError, ProjectionError) as error:
        services.logger.warning("peer.cancel_failed", reason=str(error))
        return web.Response(status=503)
    return web.Response(status=404 if answer.reply is None else 204)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    body = piecewise_body(encode(await collect_metrics(request.app[SERVICES])))
    return web.Response(body=body, content_type="application/msgpack")


def _find_reply(request: web.Request) -> Reply | None:
    """The reply, if it runs or is queued in this process."""
    replies = request.app[SERVICES].supervisor.replies(request.match_info["session_id"])
    return replies.get(request.match_info["reply_id"])


class _ReplyTextWriter:
    """Sends one reply's text to a node that mirrors it."""

    def __init__(self, flush_scheduler: FlushScheduler, reply: Reply, offset: int) -> None:
        self._flush_scheduler = flush_scheduler
        self._reply = reply
        self._offset = offset
        self._part = NO_PART  # the last one that was sent
        self._header_part = NO_PART  # the one whose header was sent last

    async def write(self, stream: ResponseStream) -> None:
        await self._flush_scheduler.stream_updates(stream, self._take_news, self._reply.signal)
        await stream.close(self._encode_new_text())

    def _take_news(self) -> News:
        """The new text; OVER once the reply's end is known."""
        is_over = self._reply.outcome is not None or self._reply.unrecorded is not None
        return Progress.OVER if is_over else self._encode_new_text()

    def _encode_new_text(self) -> bytes:
        reply, offset, part = self._reply, self._offset, self._part
        if reply.length <= offset and reply.last_part <= part:
            return b""
        self._offset, self._part = max(offset, reply.length), reply.last_part
        lines: list[str | PartHeader] = []
        for one in reply.segments(offset, part):
            if reply.last_part != NO_PART and one.part != self._header_part:
                self._header_part = one.part
                lines.append(PartHeader(one.part, one.kind, one.call_id, one.name))
            lines += [one.text[start : start + LINE_MAX_CHARS] for start in range(0, len(one.text), LINE_MAX_CHARS)]
        return b"".join([msgspec.json.encode(line) + b"\n" for line in lines])
