"""A session's feed: what a reader misses after its cursor, then all that happens, across replies and devices."""

from aiohttp import web

from chatbot.api.middleware import CALLER
from chatbot.api.request_bodies import check_query
from chatbot.api.request_headers import Cursor, read_cursor, session_id_of
from chatbot.api.services import SERVICES, Services
from chatbot.api.streaming.feed_writer import FeedWriter
from chatbot.api.streaming.flush_scheduler import FlushScheduler
from chatbot.api.streaming.response_stream import STREAMS, ask_to_reconnect, stream_response
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.rejections import Rejection
from chatbot.sessions.feeds.channels import Channel
from events.errors import LogError
from projections.errors import ProjectionError

routes = web.RouteTableDef()


@routes.get("/api/sessions/{session_id}/stream", allow_head=False)
async def follow(request: web.Request) -> web.StreamResponse:
    services, streams = request.app[SERVICES], request.app[STREAMS]
    check_query(request, frozenset({"after"}))
    cursor = read_cursor(request)
    session_id = session_id_of(request)
    try:
        stream_slot = streams.limit.acquire()
    except Rejection as error:
        return ask_to_reconnect(request, error)
    with stream_slot, services.feeds.open(session_id) as channel:
        try:
            writer = await _open_feed(services, streams.flush_scheduler, session_id, request[CALLER], channel, cursor)
        except (Rejection, LogError, ProjectionError) as error:
            return ask_to_reconnect(request, error)
        return await stream_response(request, writer.write)


async def _open_feed(
    services: Services,
    flush_scheduler: FlushScheduler,
    session_id: str,
    caller: Caller,
    channel: Channel,
    cursor: Cursor | None,
) -> FeedWriter:
    session = await services.reader.session(session_id, caller)
    channel.advance_to(session.version)
    await services.nodes.watch(session)
    writer = FeedWriter(services, flush_scheduler, session, channel)
    await writer.begin(session, cursor)
    return writer
