"""A session's feed: what a reader misses after its cursor, then all that happens, across replies and devices."""

from aiohttp import web

from chatbot.api.access.authorization import CALLER
from chatbot.api.access.ticket_scope import TICKET
from chatbot.api.request_queries import check_query
from chatbot.api.requests import Cursor, read_cursor, session_id_of
from chatbot.api.services import SERVICES, Services
from chatbot.api.streaming.feed_writer import FEED_SOURCES, FeedSources, FeedWriter
from chatbot.api.streaming.response_stream import STREAMS, FlushScheduler, ask_to_reconnect, stream_response
from chatbot.sessions.domain.rejections import Rejection
from chatbot.sessions.feeds.channels import Channel
from events.errors import LogError
from events.record import RecordedEvent
from projections.errors import ProjectionError

routes = web.RouteTableDef()


@routes.get("/api/sessions/{session_id}/stream", allow_head=False)
async def follow(request: web.Request) -> web.StreamResponse:
    services, streams = request.app[SERVICES], request.app[STREAMS]
    check_query(request, frozenset({"after", TICKET}))
    cursor = read_cursor(request)
    session_id = session_id_of(request)
    try:
        stream_slot = streams.limit.acquire(request[CALLER].owner)
    except Rejection as error:
        return ask_to_reconnect(request, error)
    with stream_slot, services.feeds.open(session_id) as channel:
        try:
            writer = await _open_feed(request, session_id, channel, cursor)
        except (Rejection, LogError, ProjectionError) as error:
            return ask_to_reconnect(request, error)
        return await stream_response(request, writer.write)


async def _open_feed(request: web.Request, session_id: str, channel: Channel, cursor: Cursor | None) -> FeedWriter:
    services = request.app[SERVICES]
    session = await services.session_queries.session(session_id, request[CALLER])
    channel.advance_to(session.version)
    await services.cluster.watch(session)
    writer = FeedWriter(request.app[FEED_SOURCES], session, channel)
    await writer.begin(session, cursor)
    return writer


def make_feed_sources(services: Services, flush_scheduler: FlushScheduler) -> FeedSources:
    async def reply_created_at(session_no: int, ended: RecordedEvent, reply_id: str) -> int:
        """0 if the projections do not have the reply."""
        await services.runner.wait_for(ended.position)
        row = await services.queries.message(session_no, reply_id)
        return row.created_at_us if row else 0

    return FeedSources(
        log=services.log,
        feeds=services.feeds,
        running_reply=services.supervisor.running_reply,
        with_metadata=services.session_queries.with_metadata,
        reply_created_at=reply_created_at,
        flush_scheduler=flush_scheduler,
        retry_ms=services.settings.stream.retry_ms,
        logger=services.logger,
    )
