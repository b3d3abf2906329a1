"""A conversation of any length, folded without most of its texts, which are read again in chunks when they are sent."""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import assert_never

import msgspec
from msgspec import Struct, field

from chatbot.audit.conversation import (
    PAGE,
    Conversation,
    MessageAsOf,
    apply_ending,
    fold_conversation,
    is_imported,
    parts_in,
    text_in,
)
from chatbot.audit.point_in_time import PointInTime
from chatbot.runtime.throttle import PIECE_BYTES, DutyCycleThrottle, batched
from chatbot.sessions.history_chunks import split_into_chunks
from events.catalogue import (
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MessageWithdrawn,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    ReservedEvent,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    SessionRead,
    SessionViewed,
    ToolCallsClosed,
)
from events.errors import LogUnavailable
from events.log import EventLog
from events.record import RecordedEvent
from events.schema.parts import count_chars

SIZES_BATCH = 500  # messages whose sizes are queried at once
KEPT_CHARS = 262_144  # of texts that stay in memory, so that a short conversation is read only once
MESSAGE_BYTES = 600  # memory of a message without its text, about


class ConversationOutline(Struct):
    """A conversation whose messages have a text only if it is among the first KEPT_CHARS or of a reply that had not
    ended. `positions` are those of the events that hold the other texts, by message id; `copies` are the positions of
    the copies that were made of such texts when the session that was forked from was erased.
    """

    conversation: Conversation
    positions: dict[str, int] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    kept_chars: int = 0

    def apply(self, recorded: RecordedEvent) -> None:
        """Drop the text that `recorded` has added to the conversation, and remember its position."""
        event = recorded.event
        match event:
            case MessagePosted():
                self._drop_text(event.message_id, recorded.position)
            case HistoryAdopted():
                for message in event.messages:
                    self._drop_text(message.message_id, message.position)
            case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                self._drop_text(event.reply_id, recorded.position)
            case ReplyStarted() | ReplyRequested():  # another attempt replaces the text of the one before
                self.positions.pop(event.reply_id, None)
            case MessageWithdrawn():
                self.positions.pop(event.message_id, None)
            case SessionDeleted() | ContentErased():
                self.positions.clear()
            case (
                SessionCreated()
                | MetadataChanged()
                | SessionAccessed()
                | SessionRead()
                | SessionViewed()
                | SessionExpired()
                | ReplyProgressed()
                | ToolCallsClosed()
                | BranchSelected()
                | MessageCopied()
                | MessageRedacted()
                | ReservedEvent()
                | IgnoredEvent()
                | None
            ):
                pass
            case _:
                assert_never(event)

    def _drop_text(self, message_id: str, position: int) -> None:
        message = self.conversation.messages.get(message_id)
        if message is None:
            return
        chars = _chars(message)
        if chars and self.kept_chars + chars <= KEPT_CHARS:
            self.kept_chars += chars
        else:
            message.content, message.parts = "", ()
            self.positions[message_id] = position


async def read_outline(
    log: EventLog, session_id: str, moment: PointInTime, throttle: DutyCycleThrottle
) -> ConversationOutline | None:
    """The conversation as of `moment`; None where the session did not exist then.

    Read and folded page by page under `throttle`, so that a long one does not delay other requests. Raises
    LogUnavailable, UnknownEvent.
    """
    last = await _last_covered(log, session_id, moment, throttle)
    found: ConversationOutline | None = None
    copies: dict[str, int] = {}
    async for page in _pages(log, session_id, throttle):
        with throttle.measure():
            for recorded in page:
                if isinstance(recorded.event, MessageCopied):
                    copies[recorded.event.message_id] = recorded.position
                if last is None or recorded.version <= last:
                    conversation = fold_conversation([recorded], {}, {}, found.conversation if found else None)
                    if found is None and conversation is not None:
                        found = ConversationOutline(conversation)
                    if found is not None:
                        found.apply(recorded)
    if found is not None:
        found.copies = copies
    return found


async def read_texts(
    log: EventLog, outline: ConversationOutline, messages: Sequence[MessageAsOf], throttle: DutyCycleThrottle
) -> AsyncIterator[list[MessageAsOf]]:
    """These messages of the conversation with their texts, in chunks of about PIECE_BYTES.

    Raises LogUnavailable, also where texts were erased in the meantime.
    """
    for batch in batched(messages, SIZES_BATCH):
        sizes = await log.sizes(
            [outline.positions[one.message_id] for one in batch if one.message_id in outline.positions]
        )
        for piece in split_into_chunks(batch, partial(_size, outline, sizes), PIECE_BYTES):
            async with throttle.piece():
                texts = await _texts(log, outline, piece)
                page = [_with_text(one, texts.get(one.message_id)) for one in piece]
            yield page


def _chars(one: MessageAsOf) -> int:
    """Code points of all that a message holds in memory; a file counts as one."""
    return count_chars(one.parts) + len(one.parts) if one.parts else len(one.content)


def _size(outline: ConversationOutline, sizes: dict[int, int], one: MessageAsOf) -> int:
    return _chars(one) + sizes.get(outline.positions.get(one.message_id, 0), 0)


async def _texts(log: EventLog, outline: ConversationOutline, piece: Sequence[MessageAsOf]) -> dict[str, RecordedEvent]:
    """The events that hold the texts of these messages, by message."""
    positions = {
        one.message_id: outline.positions[one.message_id] for one in piece if one.message_id in outline.positions
    }
    found = await log.read_at(list(positions.values()))
    erased = [name for name, at in positions.items() if at not in found or found[at].event is None]
    if erased:
        copies = {name: outline.copies[name] for name in erased if name in outline.copies}
        if len(copies) < len(erased):
            raise LogUnavailable("the messages were erased while they were read")
        found |= await log.read_at(list(copies.values()))
        positions |= copies
    return {name: found[at] for name, at in positions.items()}


def _with_text(one: MessageAsOf, recorded: RecordedEvent | None) -> MessageAsOf:
    event = recorded.event if recorded else None
    if event is None:
        return one
    imported = is_imported(event)
    complete = msgspec.structs.replace(one, content=text_in(event), parts=parts_in(event), imported=imported)
    apply_ending(complete, event)
    return complete


async def _last_covered(log: EventLog, session_id: str, moment: PointInTime, throttle: DutyCycleThrottle) -> int | None:
    """The last version that `moment` covers, 0 for none; None where it covers every version.

    The order is that of versions: where the clock was set back, an event before a covered one is covered, too.
    """
    if moment == PointInTime():
        return None
    last = 0
    async for page in _pages(log, session_id, throttle):
        with throttle.measure():
            last = max([last, *(one.version for one in page if moment.covers(one))])
    return last


async def _pages(log: EventLog, session_id: str, throttle: DutyCycleThrottle) -> AsyncIterator[list[RecordedEvent]]:
    after = 0
    while True:
        async with throttle.piece():
            page = await log.read(session_id, after=after, limit=PAGE, bytes_max=PIECE_BYTES)
        if not page:
            return
        yield page
        after = page[-1].version
