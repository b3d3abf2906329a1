"""A session's feed: from a cursor on, exactly what is missing, then what happens, across turns and devices."""

from aiohttp import web

from chatbot.api.answer import session_id_of
from chatbot.api.bodies import check_query
from chatbot.api.cursors import Cursor, read_cursor
from chatbot.api.event_stream import HEADERS, answer_stream
from chatbot.api.follower import Follower
from chatbot.api.middleware import ASKER
from chatbot.api.problems import problem_of
from chatbot.api.services import SERVICES, Services
from chatbot.sessions.commands import Asker
from chatbot.sessions.errors import Rejection
from chatbot.sessions.feeds import Channel
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
        room = services.streams.another()
    except Rejection as error:
        return come_back(request, error)
    with room, services.feeds.open(session_id) as channel:
        try:
            follower = await _begin(services, session_id, request[ASKER], channel, cursor)
        except (Rejection, LogError, ProjectionError) as error:
            return come_back(request, error)
        return await answer_stream(request, follower.write)


async def _begin(
    services: Services, session_id: str, asker: Asker, channel: Channel, cursor: Cursor | None
) -> Follower:
    session = await services.reader.session(session_id, asker)
    channel.reach(session.version)
    await services.nodes.watch(session)
    follower = Follower(services, session, channel)
    await follower.begin(session, cursor)
    return follower


def come_back(request: web.Request, error: Exception) -> web.Response:
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
