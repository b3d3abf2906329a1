"""Finds stored responses and what they answer, for the routes."""

from collections.abc import Awaitable, Callable, Sequence
from typing import assert_never

from aiohttp import web
from msgspec import Struct

from chatbot.api.access.authorization import CALLER
from chatbot.api.message_parts import SentFile
from chatbot.api.openai_responses.create_bodies import Items
from chatbot.api.openai_responses.input_items import SentItem, images_of, messages_of, read_items
from chatbot.api.openai_responses.item_views import Item, message_items
from chatbot.api.openai_responses.object_ids import ResponseKey, read_response_id
from chatbot.api.openai_responses.response_objects import INCOMPLETE, RequestedResponse
from chatbot.api.problems import RequestFault
from chatbot.api.requests import id_in_path
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.sessions.domain.message_events import as_message_event
from chatbot.sessions.domain.rejections import InvalidMessage, MessageNotFound, SessionBusy, TooLarge
from chatbot.sessions.domain.transcript import TranscriptMessage, read_added
from chatbot.sessions.recorded_replies import RecordedTurn, find_turn
from events.catalogue import (
    MessageCopied,
    MessageEvent,
    MessagePosted,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
)
from events.schema.parts import Media, Parts, Redacted, parts_of
from projections.folds.message import MessageRow
from projections.folds.session import Session

BRANCH_MAX = 10_000  # messages of one branch
KeepFiles = Callable[[web.Request, Sequence[SentFile], str], Awaitable[dict[str, Media]]]


class AddedMessages(Struct, frozen=True):
    """What a request brings. `recorded`: how many messages are recorded of it."""

    messages: tuple[TranscriptMessage, ...]
    recorded: int


def response_key(request: web.Request) -> ResponseKey:
    """Raises SessionNotFound for what no id of a response is."""
    return id_in_path(request, "response_id", read_response_id)


async def find_response(request: web.Request, session: Session, reply_id: str) -> RecordedTurn:
    """Raises MessageNotFound."""
    services = request.app[SERVICES]
    turn = await find_turn(services.log, services.queries, session, reply_id)
    if turn is None:
        raise MessageNotFound(reply_id)
    return turn


async def check_previous(request: web.Request, key: ResponseKey, *, must_have_ended: bool = False) -> None:
    """Refuse to go on from what is no reply of the session. Raises SessionNotFound, MessageNotFound, SessionBusy for a
    reply that is still written if it `must_have_ended`.
    """
    services = request.app[SERVICES]
    session = await services.session_queries.find_recorded(key.session_id, request[CALLER])
    row = await services.queries.message(session.no, key.reply_id)
    if row is None or row.role != "assistant":
        raise MessageNotFound(key.reply_id)
    if must_have_ended and not row.position:
        raise SessionBusy("the previous response is still in progress: its text would be missing")


def requested_response(turn: RecordedTurn) -> RequestedResponse:
    model = turn.parameters.model or turn.row.model or ""
    session_id = turn.session.session_id
    return RequestedResponse(session_id, turn.row.message_id, turn.requested_at_us, model, turn.parameters)


async def read_input(
    request: web.Request, sent: str | Items | None, items_max: int, name: str, keep_files: KeepFiles
) -> AddedMessages:
    """The messages of the body's field `name`; its images are on disk then. Raises RequestFault, and what `keep_files`
    raises.
    """
    path = f"$.{name}"
    v1 = request.app[SERVICES].settings.v1
    items: list[SentItem] = read_items(sent, path, items_max)
    images = images_of(items, path)
    files: dict[str, Media] = await keep_files(request, images, path) if images else {}
    messages = messages_of(items, files, v1.message_max_chars, path)
    try:
        added = read_added(messages, None, continues=True)
    except (InvalidMessage, TooLarge) as error:
        raise RequestFault(str(error), path) from None
    return AddedMessages(messages, len(added.messages))


async def branch_before(request: web.Request, session_id: str, leaf: str | None) -> tuple[TranscriptMessage, ...]:
    """All messages of the branch that ends in `leaf` (None: of the selected one), without what is redacted.

    Raises SessionNotFound, UnknownMessage, TooLarge.
    """
    services = request.app[SERVICES]
    reader, most = services.session_queries, services.settings.v1.messages_max
    history = await reader.history(session_id, leaf, most, None, request[CALLER])
    messages = list(history.messages)
    async for more in reader.remaining_messages(history):
        messages += more
    if len(messages) < history.total:
        raise TooLarge(f"the conversation has more than {most} messages, or more bytes than are read at once")
    found = (TranscriptMessage(one.row.role, _without_redacted(parts_of(one))) for one in messages)
    return tuple(one for one in found if one.parts)


def _without_redacted(parts: Parts) -> Parts:
    return tuple(part for part in parts if not isinstance(part, Redacted))


async def items_of(request: web.Request, session: Session, row: MessageRow) -> list[Item]:
    """The items of one message; none of a reply that is still written, and of what is erased."""
    recorded = (await request.app[SERVICES].log.read_at([row.position])).get(row.position) if row.position else None
    event = as_message_event(recorded.event) if recorded is not None else None
    if event is None:
        return []
    prefix = prefix_of(request, request.app[SERVICES].settings.server)

    def media_url(media: Media) -> str:
        return f"{prefix}/api/media/{media.sha256}?session_id={session.session_id}"

    return message_items(row.message_id, row.role, parts_of(event), media_url, is_complete=_is_complete(event))


def _is_complete(event: MessageEvent) -> bool:
    """Whether the message is a reply that the model has completed, or no reply."""
    match event:
        case ReplyCompleted() | MessageCopied():
            return event.finish_reason not in INCOMPLETE
        case MessagePosted():
            return True
        case ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            return False
        case _:
            assert_never(event)
