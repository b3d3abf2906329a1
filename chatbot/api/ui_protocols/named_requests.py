"""What both protocols do alike: the session that a client's own name means, and a reply to the transcript it sends."""

from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct

from chatbot.api.access.authorization import CALLER
from chatbot.api.access.view_records import VIEWS, ViewKind
from chatbot.api.problems import RequestFault
from chatbot.api.requests import canonical_id
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.api.ui_protocols.sent_messages import SentMessage, path_in_request
from chatbot.api.v1.conversation_names import checked_name
from chatbot.api.v1.transcript_checks import check_newest
from chatbot.sessions.conversations import TranscriptRequest
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import USER_ID
from chatbot.sessions.replies.reply import Reply
from events.catalogue import ConversationName, Parameters
from events.schema.parts import count_chars
from projections.folds.session import Session


class RequestedReply(Struct, frozen=True):
    """A reply that was requested, and its session."""

    session_id: str
    reply: Reply


class NamedTranscript(Struct, frozen=True, kw_only=True):
    """A conversation as a client sent it, with the name that it has there. `end_user`: for whom a front end sends it.
    `run_id`: a request with the same one and the same messages gets the same reply.
    """

    name: ConversationName
    end_user: str | None
    messages: Sequence[SentMessage]
    parameters: Parameters
    client_id: str | None = None
    run_id: str | None = None
    on_busy: str = "queue"
    without_stop: bool = False


async def find_session(request: web.Request, name: ConversationName, end_user: str | None, what: ViewKind) -> Session:
    """The session that `name` of `end_user` means now: the one with this id, or the newest one that was given the name.

    Reading it counts as an access, and is recorded with auth.record_reads. Raises RequestFault, SessionNotFound, also
    for sessions that have ended, and what the recording raises.
    """
    session = await _find_session(request, name, end_user)
    if request.app[SERVICES].settings.auth.record_reads:
        await request.app[VIEWS].record_named(session.session_id, what, request[CALLER])
    return session


async def _find_session(request: web.Request, name: ConversationName, end_user: str | None) -> Session:
    session_id = await _find_by_id(request, name.value, end_user)
    services, caller = request.app[SERVICES], request[CALLER]
    if session_id is not None:
        return await services.session_queries.session(session_id, caller)
    await services.session_queries.catch_up()
    for one in services.conversations.session_ids(name, end_user, caller):
        if await services.queries.session(one) is None:
            raise rejections.SessionNotFound(name.value)
        try:
            return await services.session_queries.session(one, caller)
        except rejections.SessionNotFound:  # deleted or expired: a later one may have the name
            continue
    raise rejections.SessionNotFound(name.value)


async def request_reply(request: web.Request, transcript: NamedTranscript) -> RequestedReply:
    """Record what is new of the transcript and request the reply. Raises RequestFault, and what sessions raise."""
    services, name = request.app[SERVICES], transcript.name
    session_id = await _find_by_id(request, name.value, transcript.end_user)
    posted = TranscriptRequest(
        messages=[one.message for one in transcript.messages],
        parameters=transcript.parameters,
        session_id=session_id,
        name=None if session_id is not None else name,
        end_user=transcript.end_user,
        client_id=transcript.client_id,
        reply_client_id=transcript.run_id,
        on_busy=transcript.on_busy,
        without_stop=transcript.without_stop,
    )
    try:
        result = await services.conversations.post(posted, request[CALLER])
    except rejections.InvalidMessage as error:
        raise RequestFault(str(error), path_in_request(error.path, transcript.messages)) from error
    if result.reply is None:
        raise RuntimeError("a command that requests a reply was answered without one")
    return RequestedReply(result.state.session.session_id, result.reply)


async def _find_by_id(request: web.Request, name: str, end_user: str | None) -> str | None:
    """The id of the session that `name` is, if it is one's that the caller may use: another's counts as a name, as one
    of no session does.
    """
    session_id = canonical_id(name)
    if session_id is None:
        return None
    services = request.app[SERVICES]
    try:
        session = await services.session_queries.find_recorded(session_id, request[CALLER])
    except rejections.SessionNotFound:
        return None
    if end_user is not None:
        described = await services.session_queries.with_metadata([session])
        if not described or described[0].metadata.get(USER_ID) != end_user:
            return None
    return session_id


def own_file_url(request: web.Request, session_id: str, sha256: str) -> str:
    """Where clients read a file of the session."""
    prefix = prefix_of(request, request.app[SERVICES].settings.server)
    return f"{prefix}/api/media/{sha256}?session_id={session_id}"


def conversation_name(source: str, value: str, path: str) -> ConversationName:
    """Raises RequestFault for an empty, long or unprintable name."""
    name = checked_name(value, path)
    if not name:
        raise RequestFault("must not be empty or blank", path)
    return ConversationName(source, name)


def check_count(name: str, entries: Sequence[object], entries_max: int) -> None:
    """Of a field of the request, before its entries are looked at. Raises RequestFault."""
    if len(entries) > entries_max:
        raise RequestFault(f"has {len(entries)} {name}; at most {entries_max} are allowed", f"$.{name}")


def check_messages(messages: Sequence[SentMessage], messages_max: int, chars_max: int) -> None:
    """`chars_max`: code points of one message. Raises RequestFault."""
    check_count("messages", messages, messages_max)
    for one in messages:
        chars = count_chars(one.message.parts)
        if chars > chars_max:
            why = f"has {chars} characters; at most {chars_max} are allowed"
            raise RequestFault(why, f"$.messages[{one.index}]")
    if messages:
        check_newest(messages[-1].message, f"$.messages[{messages[-1].index}]")
