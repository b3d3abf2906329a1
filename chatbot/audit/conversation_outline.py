"""A conversation without its texts, which are read from the log again when they are told: so it may have any length."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import msgspec
from msgspec import Struct, field

from chatbot.audit.conversation import PAGE, Conversation, MessageAsOf, apply_ending, fold_conversation
from chatbot.runtime.throttle import PIECE_BYTES, DutyCycleThrottle, batched
from chatbot.runtime.timestamps import PointInTime
from chatbot.sessions.history_chunks import split_into_chunks
from events.catalogue import (
    ContentErased,
    HistoryAdopted,
    MessageCopied,
    MessagePosted,
    ReplyEnded,
    ReplyRequested,
    ReplyStarted,
    SessionDeleted,
)
from events.errors import LogUnavailable
from events.log import EventLog
from events.record import RecordedEvent

SIZES_BATCH = 500  # messages whose sizes are asked for at once
KEPT_CHARS = 262_144  # of texts that stay: a short conversation is read once
MESSAGE_BYTES = 600  # memory of a message without its text, about


class ConversationOutline(Struct):
    """`conversation` has the first KEPT_CHARS of texts, those of replies that had not ended, and no others: `places`
    are the positions of the events that hold those, by message; `copies` those of their copies, made when a fork's
    origin was erased.
    """

    conversation: Conversation
    positions: dict[str, int] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    kept_chars: int = 0

    def apply(self, recorded: RecordedEvent) -> None:
        """Take the text that `recorded` has brought out of the conversation, and note where it is."""
        match event := recorded.event:
            case MessagePosted():
                self._drop_text(event.message_id, recorded.position)
            case HistoryAdopted():
                for message in event.messages:
                    self._drop_text(message.message_id, message.position)
            case ReplyStarted() | ReplyRequested():  # a further attempt: what was there counts no more
                self.positions.pop(event.reply_id, None)
            case SessionDeleted() | ContentErased():
                self.positions.clear()
            case _ if isinstance(event, ReplyEnded):
                self._drop_text(event.reply_id, recorded.position)

    def _drop_text(self, message_id: str, position: int) -> None:
        message = self.conversation.messages.get(message_id)
        if message is None:
            return
        if message.content and self.kept_chars + len(message.content) <= KEPT_CHARS:
            self.kept_chars += len(message.content)
        else:
            message.content = ""
            self.positions[message_id] = position


async def read_outline(
    log: EventLog, session_id: str, moment: PointInTime, throttle: DutyCycleThrottle
) -> ConversationOutline | None:
    """The conversation at `moment`; None where the session did not exist yet, or never did.

    Read and folded page by page, so that a long one does not hold up what else goes on. Raises LogUnavailable,
    UnknownEvent.
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
    log: EventLog, outlined: ConversationOutline, messages: Sequence[MessageAsOf], throttle: DutyCycleThrottle
) -> AsyncIterator[list[MessageAsOf]]:
    """These messages of the conversation with their texts, a piece at a time. Raises LogUnavailable, also where texts
    have been erased meanwhile.
    """
    for batch in batched(messages, SIZES_BATCH):
        sizes = await log.sizes(
            [outlined.positions[one.message_id] for one in batch if one.message_id in outlined.positions]
        )
        for piece in split_into_chunks(batch, partial(_size, outlined, sizes), PIECE_BYTES):
            async with throttle.piece():
                texts = await _texts(log, outlined, piece)
                page = [_with_text(one, texts.get(one.message_id)) for one in piece]
            yield page


def _size(outlined: ConversationOutline, sizes: dict[int, int], one: MessageAsOf) -> int:
    return len(one.content) + sizes.get(outlined.positions.get(one.message_id, 0), 0)


async def _texts(
    log: EventLog, outlined: ConversationOutline, piece: Sequence[MessageAsOf]
) -> dict[str, RecordedEvent]:
    """The events that hold the texts of these messages, by message."""
    positions = {
        one.message_id: outlined.positions[one.message_id] for one in piece if one.message_id in outlined.positions
    }
    found = await log.read_at(list(positions.values()))
    gone = [name for name, place in positions.items() if place not in found or found[place].event is None]
    if gone:
        copies = {name: outlined.copies[name] for name in gone if name in outlined.copies}
        if len(copies) < len(gone):
            raise LogUnavailable("the messages were erased while they were read")
        found |= await log.read_at(list(copies.values()))
        positions |= copies
    return {name: found[place] for name, place in positions.items()}


def _with_text(one: MessageAsOf, recorded: RecordedEvent | None) -> MessageAsOf:
    event = recorded.event if recorded else None
    if event is None:
        return one
    full = msgspec.structs.replace(one, content=getattr(event, "content", ""))
    apply_ending(full, event)
    return full


async def _last_covered(log: EventLog, session_id: str, moment: PointInTime, throttle: DutyCycleThrottle) -> int | None:
    """The last version that `moment` covers, 0 for none; None where it covers all that there is.

    Order is the version's: where the clock was set back, an event before a covered one is covered, too.
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
