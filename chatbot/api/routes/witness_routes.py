"""The witness of other logs (https://c2sp.org/tlog-witness). Off (404) unless the settings have a witness's key.

Requests carry no API key: the signature of the checkpoint authenticates them. So their number and size are limited
before anything is looked at.
"""

import asyncio
import re

from aiohttp import web

from chatbot.anchors.anchor_target import NOTE_MAX_BYTES
from chatbot.anchors.witness import Cosigned, NotCosigned, Witness, WitnessBusy, parse_submission
from chatbot.api.access.access_log import SERVED
from chatbot.api.request_limits import WITNESS_RATE
from chatbot.api.services import SERVICES
from chatbot.sessions.domain.rejections import Overloaded

BODY_MAX_BYTES = NOTE_MAX_BYTES + 4096  # a checkpoint, and a proof of 63 hashes
SIZE_TYPE = "text/x.tlog.size"

_ORIGIN_HASH = re.compile(r"[0-9a-f]{64}")

routes = web.RouteTableDef()


@routes.post("/witness/add-checkpoint")
async def add_checkpoint(request: web.Request) -> web.Response:
    services, witness = request.app[SERVICES], _witness(request)
    submission = parse_submission(await _read(request))
    if isinstance(submission, NotCosigned):
        return _refuse(submission)
    try:
        result = await witness.add(submission, services.clock() // 1_000_000, request[SERVED].request_id)
    except WitnessBusy as error:
        raise Overloaded(str(error)) from error
    if isinstance(result, Cosigned):
        return web.Response(text=result.lines)
    origin, size = submission.head.origin, submission.head.size
    if result.status == 422 or size < result.size:  # signed with the log's key, so worth knowing
        services.logger.warning("witness.refused", origin=origin, events=size, reason=result.reason)
    return _refuse(result)


@routes.get("/witness/{origin_hash}/checkpoint")
async def newest_checkpoint(request: web.Request) -> web.Response:
    services, witness = request.app[SERVICES], _witness(request)
    origin_hash = request.match_info["origin_hash"]
    known = _ORIGIN_HASH.fullmatch(origin_hash)
    text = await witness.newest(origin_hash, services.clock() // 1_000_000) if known else None
    if text is None:
        return web.Response(status=404, text="no checkpoint of this log was seen\n")
    return web.Response(text=text)


def _witness(request: web.Request) -> Witness:
    """Raises HTTPNotFound where this service is no witness, Overloaded beyond the rate."""
    witness = request.app[SERVICES].anchoring.witness
    if witness is None:
        raise web.HTTPNotFound
    if not request.app[WITNESS_RATE].take():
        raise Overloaded("the witness is asked too often")
    return witness


async def _read(request: web.Request) -> bytes:
    """Raises HTTPRequestEntityTooLarge, HTTPRequestTimeout."""
    content = bytearray()
    try:
        async with asyncio.timeout(request.app[SERVICES].settings.server.body_timeout_s):
            while piece := await request.content.readany():
                content += piece
                if len(content) > BODY_MAX_BYTES:
                    raise web.HTTPRequestEntityTooLarge(BODY_MAX_BYTES, len(content))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    return bytes(content)


def _refuse(refusal: NotCosigned) -> web.Response:
    if refusal.status == 409:
        return web.Response(status=409, text=f"{refusal.size}\n", content_type=SIZE_TYPE)
    return web.Response(status=refusal.status, text=f"{refusal.reason}\n")
