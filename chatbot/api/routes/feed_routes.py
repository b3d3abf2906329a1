"""A session's feed: from a cursor on, exactly what is missing, then what happens, across turns and devices."""

from aiohttp import web

from chatbot.api.middleware import CALLER
from chatbot.api.problems import problem_of
from chatbot.api.request_bodies import check_query
from chatbot.api.responses import session_id_of
from chatbot.api.services import SERVICES, Services
from chatbot.api.streaming.cursors import Cursor, read_cursor
from chatbot.api.streaming.feed_writer import FeedWriter
from chatbot.api.streaming.response_stream import HEADERS, stream_response
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.rejections import Rejection
from chatbot.sessions.feeds.channels import Channel
from events.errors import LogError
from projections.errors import ProjectionError

routes = web.RouteTableDef()


@routes.get("/api/sessions/{session_id}/stream", allow_head=False)
async def follow(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    check_query(request, frozenset({"after"}))
    cursor = read_cursor(request)
    session_id = session_id_of(request)
    try:
        stream_slot = services.streams.acquire()
    except Rejection as error:
        return ask_to_reconnect(request, error)
    with stream_slot, services.feeds.open(session_id) as channel:
        try:
            writer = await _open_feed(services, session_id, request[CALLER], channel, cursor)
        except (Rejection, LogError, ProjectionError) as error:
            return ask_to_reconnect(request, error)
        return await stream_response(request, writer.write)


async def _open_feed(
    services: Services, session_id: str, caller: Caller, channel: Channel, cursor: Cursor | None
) -> FeedWriter:
    session = await services.reader.session(session_id, caller)
    channel.advance_to(session.version)
    await services.nodes.watch(session)
    writer = FeedWriter(services, session, channel)
    await writer.begin(session, cursor)
    return writer


def ask_to_reconnect(request: web.Request, error: Exception) -> web.Response:
    """A browser's EventSource gives up for ever on any status but 200: where the trouble passes, ask it to come back.

    Raises `error` where it does not, and for all other clients, which can read a problem.
    """
    services, problem = request.app[SERVICES], problem_of(error)
    is_event_source = "text/event-stream" in request.headers.get("Accept", "")
    if problem is None or problem.status != 503 or not is_event_source:
        raise error
    if not isinstance(error, Rejection):
        services.logger.warning("feed.unavailable", reason=str(error))
    text = f"retry: {services.settings.stream.retry_ms}\n: {problem.detail}\n\n"
    return web.Response(body=text.encode(), headers=HEADERS)
