"""A conversation as of a point in time, folded from its events alone. Pure, but for `load_conversation`, which reads.

Unlike a projection it can be made for any past point in time, and it holds the texts.
"""

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from msgspec import Struct, field

from chatbot.audit.point_in_time import PointInTime
from chatbot.sessions.domain.state import settings_after
from chatbot.sessions.replies.growing_parts import Mark, build_parts, content_of, segment_of, with_segment
from events.catalogue import (
    AdoptedMessage,
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    LoggedEvent,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MessageWithdrawn,
    MetadataChanged,
    Origin,
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplySettings,
    ReplyStarted,
    ReservedEvent,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    SessionRead,
    SessionViewed,
    ToolCallsClosed,
    Usage,
)
from events.codec import event_type
from events.log import EventLog
from events.paging import read_pages
from events.record import RecordedEvent
from events.schema.parts import Parts, call_ids_of
from projections.folds.message import ANSWERED, CLOSED, COMPLETE, ENDINGS, FINISH_REASONS, OPEN, QUEUED, STREAMING

PAGE = 50  # events read at once, with their texts: takes 0.25 ms


class MessageAsOf(Struct):
    """A message as of a point in time. `status` is complete, queued, streaming, failed, cancelled or interrupted.

    `parts`: as events hold them, none where `content` is all that there is. `calls` of a reply with tool calls is open,
    answered or closed; None where there is nothing to answer. `imported`: only a client says that it was written.
    """

    message_id: str
    parent_id: str | None
    role: str
    content: str
    status: str
    created_at_us: int
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None
    finish_detail: str = ""
    parts: Parts = ()
    calls: str | None = None
    imported: bool = False


class GrowingReply(Struct, frozen=True):
    """What is recorded of a reply that has not ended."""

    text: str = ""
    marks: tuple[Mark, ...] = ()


class Conversation(Struct):
    """A session as of `version`. `messages` has the messages of all branches, by id, in the order of their events.

    `status` is active, expired or deleted; `erased` counts events whose content is erased. `created_settings` are
    those of session_created. `head` is the last message of the selected branch. `growing` are the replies that have not
    ended.
    """

    session_id: str
    created_at_us: int
    version: int = 0
    at_us: int = 0
    owner: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = {}
    system_prompt: str | None = None
    parameters: Parameters = Parameters()
    created_settings: ReplySettings = ReplySettings()
    forked_from: Origin | None = None
    status: str = "active"
    head: str | None = None
    erased: int = 0
    messages: dict[str, MessageAsOf] = field(default_factory=dict)
    growing: dict[str, GrowingReply] = field(default_factory=dict)

    def branch(self, leaf: str | None = None) -> list[MessageAsOf]:
        """The messages from the root to `leaf` (None: the end of the selected branch), root first."""
        path: list[MessageAsOf] = []
        message_id = self.head if leaf is None else leaf
        while message_id is not None and message_id in self.messages:
            path.append(self.messages[message_id])
            message_id = path[-1].parent_id
        return path[::-1]


async def load_conversation(log: EventLog, session_id: str, moment: PointInTime | None = None) -> Conversation | None:
    """The conversation as of `moment` (None: now); None where the session did not exist then.

    All of it is in memory; for long conversations see conversation_outline.py. Raises LogUnavailable, UnknownEvent.
    """
    moment = moment or PointInTime()
    history, copies = await _read_history(log, session_id, moment)
    adopted = [event for one in history if isinstance(event := one.event, HistoryAdopted)]
    positions = [message.position for event in adopted for message in event.messages]
    texts = {position: one.event for position, one in (await log.read_at(positions)).items()}
    return fold_conversation(history, texts, copies)


def fold_conversation(
    history: Iterable[RecordedEvent],
    texts: Mapping[int, LoggedEvent | None],
    copies: Mapping[str, MessageCopied],
    conversation: Conversation | None = None,
) -> Conversation | None:
    """The conversation after the events of `history`, which follow those of `conversation` (None: from the start).

    `texts` are the events, by position, that hold the texts of adopted messages; `copies` are the copies of such texts
    in this session, by message id: they were made when the session that was forked from was erased.
    """
    for recorded in history:
        if isinstance(recorded.event, ReservedEvent):  # the stream is no session's
            continue
        if conversation is None:
            conversation = Conversation(recorded.stream_id, recorded.recorded_at_us)
        conversation.version, conversation.at_us = recorded.version, recorded.recorded_at_us
        if recorded.event is None:
            conversation.erased += 1
        elif isinstance(recorded.event, HistoryAdopted):
            _apply_adoption(conversation, recorded.event, texts, copies)
        else:
            _apply(conversation, recorded, recorded.event)
        if recorded.type in ("session_expired", "session_deleted"):
            conversation.status = recorded.type.removeprefix("session_")
    return conversation


async def _read_history(
    log: EventLog, session_id: str, moment: PointInTime
) -> tuple[list[RecordedEvent], dict[str, MessageCopied]]:
    """The events up to and including the last one that `moment` covers, and the copies of texts made at any time.

    The order is that of versions: where the clock was set back, an event before a covered one is covered, too.
    """
    history: list[RecordedEvent] = []
    copies: dict[str, MessageCopied] = {}
    async for page in read_pages(log, session_id, page_max=PAGE):
        history += page
        copies |= {one.event.message_id: one.event for one in page if isinstance(one.event, MessageCopied)}
    while history and not moment.covers(history[-1]):
        history.pop()
    return history, copies


def _apply_adoption(
    conversation: Conversation,
    event: HistoryAdopted,
    texts: Mapping[int, LoggedEvent | None],
    copies: Mapping[str, MessageCopied],
) -> None:
    for message in event.messages:
        source = texts.get(message.position) or copies.get(message.message_id)
        conversation.messages[message.message_id] = adopted_message(message, source)
    conversation.head = event.messages[-1].message_id


def _apply(  # noqa: PLR0912  an arm for each event
    conversation: Conversation, recorded: RecordedEvent, event: LoggedEvent
) -> None:
    match event:
        case SessionCreated():
            conversation.owner, conversation.forked_from = event.owner, event.forked_from
            conversation.created_settings = event.settings
            conversation.title, conversation.metadata = event.title, event.metadata
            _set_settings(conversation, event.settings)
        case MetadataChanged():
            conversation.title, conversation.metadata = event.title, event.metadata
            _set_settings(conversation, settings_after(event, conversation.created_settings))
        case MessagePosted():
            _add_message(conversation, recorded, event)
        case ReplyRequested():
            _add_queued_reply(conversation, recorded, event.reply_id, event.parent_id)
            if event.attempt == 1:
                conversation.head = event.reply_id
        case MessageWithdrawn():
            _withdraw(conversation, event)
        case ReplyStarted() | ReplyProgressed() | ToolCallsClosed():
            _update_reply(conversation, recorded, event)
        case BranchSelected():
            conversation.head = event.message_id
        case SessionDeleted() | ContentErased():
            conversation.messages, conversation.growing, conversation.head = {}, {}, None
            conversation.title, conversation.metadata, conversation.created_settings = None, {}, ReplySettings()
            _set_settings(conversation, conversation.created_settings)
            conversation.owner = event.owner
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            _end_reply(conversation, event)
        case HistoryAdopted():
            raise ValueError("a history_adopted needs the texts of other events: see fold_conversation")
        case (
            SessionAccessed()
            | SessionRead()
            | SessionViewed()
            | SessionExpired()
            | MessageCopied()
            | MessageRedacted()
            | ReservedEvent()
            | IgnoredEvent()
        ):
            pass
        case _:
            assert_never(event)


def _set_settings(conversation: Conversation, settings: ReplySettings) -> None:
    conversation.system_prompt, conversation.parameters = settings.system_prompt, settings.parameters


def _add_message(conversation: Conversation, recorded: RecordedEvent, event: MessagePosted) -> None:
    fields = (event.message_id, event.parent_id, event.role, event.content, COMPLETE, recorded.recorded_at_us)
    calls = CLOSED if event.imported and call_ids_of(event.parts) else None
    message = MessageAsOf(*fields, parts=event.parts, calls=calls, imported=event.imported)
    conversation.messages[event.message_id] = message
    if event.role == "tool" and event.parent_id is not None:
        _answer_calls(conversation, event.parent_id)
    conversation.head = event.reply_id or event.message_id
    if event.reply_id is not None:
        _add_queued_reply(conversation, recorded, event.reply_id, event.message_id)


def _withdraw(conversation: Conversation, event: MessageWithdrawn) -> None:
    for message_id in (event.message_id, event.reply_id):
        conversation.messages.pop(message_id, None)
    for message in conversation.messages.values():
        if message.parent_id == event.reply_id:
            message.parent_id = event.parent_id
    if conversation.head == event.reply_id:
        conversation.head = event.parent_id


def _answer_calls(conversation: Conversation, reply_id: str) -> None:
    reply = conversation.messages.get(reply_id)
    if reply is not None:
        reply.calls = ANSWERED


def _add_queued_reply(conversation: Conversation, recorded: RecordedEvent, reply_id: str, parent_id: str) -> None:
    known = conversation.messages.get(reply_id)
    created_at_us = known.created_at_us if known else recorded.recorded_at_us
    conversation.messages[reply_id] = MessageAsOf(reply_id, parent_id, "assistant", "", QUEUED, created_at_us)


def _update_reply(
    conversation: Conversation, recorded: RecordedEvent, event: ReplyStarted | ReplyProgressed | ToolCallsClosed
) -> None:
    reply = conversation.messages.get(event.reply_id)
    if reply is None:
        return
    if isinstance(event, ToolCallsClosed):
        reply.calls = CLOSED
        return
    growing = GrowingReply()
    if isinstance(event, ReplyStarted):
        reply.status, reply.created_at_us, reply.model = STREAMING, recorded.recorded_at_us, event.model
    else:
        growing = conversation.growing.get(event.reply_id, growing)
        growing = GrowingReply(*with_segment(growing.text, growing.marks, segment_of(event)))
    conversation.growing[event.reply_id] = growing
    reply.content = content_of(growing.text, growing.marks)
    reply.parts = build_parts(growing.text, growing.marks)


def _end_reply(conversation: Conversation, event: ReplyEnded) -> None:
    reply = conversation.messages.get(event.reply_id)
    if reply is None:
        return
    conversation.growing.pop(event.reply_id, None)
    reply.content, reply.parts, reply.status = event.content, event.parts, ENDINGS[event_type(event)]
    reply.finish_reason = FINISH_REASONS.get(reply.status)
    if isinstance(event, ReplyCompleted):
        reply.finish_reason, reply.model = event.finish_reason, event.model
        reply.calls = OPEN if call_ids_of(event.parts) else None
    reply.usage = event.usage
    if isinstance(event, ReplyCompleted | ReplyFailed):
        reply.finish_detail = event.finish_detail


def adopted_message(message: AdoptedMessage, source: LoggedEvent | None) -> MessageAsOf:
    """A message of another session, whose text the event `source` holds; None: the text is erased."""
    message_as_of = MessageAsOf(
        message_id=message.message_id,
        parent_id=message.parent_id,
        role=message.role,
        content=text_in(source),
        status=message.status,
        created_at_us=message.created_at_us,
        model=message.model,
        parts=parts_in(source),
        calls=message.calls,
        imported=is_imported(source),
    )
    message_as_of.finish_reason = FINISH_REASONS.get(message.status)
    apply_ending(message_as_of, source)
    return message_as_of


def text_in(event: LoggedEvent | None) -> str:
    """The text of the message that `event` holds; empty where it is erased (None) or holds none."""
    return event.content if isinstance(event, MessagePosted | ReplyEnded | MessageCopied) else ""


def parts_in(event: LoggedEvent | None) -> Parts:
    """The parts of that message, none where its text is all that there is."""
    return event.parts if isinstance(event, MessagePosted | ReplyEnded | MessageCopied) else ()


def is_imported(event: LoggedEvent | None) -> bool:
    """Whether only a client says that the message which `event` holds was written."""
    return isinstance(event, MessagePosted | MessageCopied) and event.imported


def apply_ending(message: MessageAsOf, source: LoggedEvent | None) -> None:
    """Set how a reply ended from `source`, the event that holds its text."""
    if isinstance(source, ReplyCompleted | MessageCopied):
        message.finish_reason = source.finish_reason or message.finish_reason
        message.model = source.model or message.model
    if isinstance(source, ReplyEnded | MessageCopied):
        message.usage = source.usage
    if isinstance(source, ReplyCompleted | ReplyFailed | MessageCopied):
        message.finish_detail = source.finish_detail
