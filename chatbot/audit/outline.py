"""A conversation without its texts, which are read from the log again when they are told: so it may have any length."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import msgspec
from msgspec import Struct, field

from chatbot.audit.conversation import PAGE, Conversation, Spoken, fold, note_ending
from chatbot.audit.moment import Moment
from chatbot.sessions.history_pieces import pieces_of
from chatbot.sessions.leisure import PIECE_BYTES, Leisure, batched
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

MEASURED = 500  # messages whose sizes are asked for at once
KEPT_CHARS = 262_144  # of texts that stay: a short conversation is read once
MESSAGE_BYTES = 600  # memory of a message without its text, about


class Outline(Struct):
    """`conversation` has the first KEPT_CHARS of texts, those of replies that had not ended, and no others: `places`
    are the positions of the events that hold those, by message; `copies` those of their copies, made when a fork's
    origin was erased.
    """

    conversation: Conversation
    places: dict[str, int] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    kept_chars: int = 0

    def note(self, recorded: RecordedEvent) -> None:
        """Take the text that `recorded` has brought out of the conversation, and note where it is."""
        match event := recorded.event:
            case MessagePosted():
                self._leave(event.message_id, recorded.position)
            case HistoryAdopted():
                for message in event.messages:
                    self._leave(message.message_id, message.position)
            case ReplyStarted() | ReplyRequested():  # a further attempt: what was there counts no more
                self.places.pop(event.reply_id, None)
            case SessionDeleted() | ContentErased():
                self.places.clear()
            case _ if isinstance(event, ReplyEnded):
                self._leave(event.reply_id, recorded.position)

    def _leave(self, message_id: str, position: int) -> None:
        message = self.conversation.messages.get(message_id)
        if message is None:
            return
        if message.content and self.kept_chars + len(message.content) <= KEPT_CHARS:
            self.kept_chars += len(message.content)
        else:
            message.content = ""
            self.places[message_id] = position


async def outline(log: EventLog, session_id: str, moment: Moment, leisure: Leisure) -> Outline | None:
    """The conversation at `moment`; None where the session did not exist yet, or never did.

    Read and folded page by page, so that a long one does not hold up what else goes on. Raises LogUnavailable,
    UnknownEvent.
    """
    last = await _last_covered(log, session_id, moment, leisure)
    found: Outline | None = None
    copies: dict[str, int] = {}
    async for page in _pages(log, session_id, leisure):
        with leisure.work():
            for recorded in page:
                if isinstance(recorded.event, MessageCopied):
                    copies[recorded.event.message_id] = recorded.position
                if last is None or recorded.version <= last:
                    conversation = fold([recorded], {}, {}, found.conversation if found else None)
                    if found is None and conversation is not None:
                        found = Outline(conversation)
                    if found is not None:
                        found.note(recorded)
    if found is not None:
        found.copies = copies
    return found


async def told(
    log: EventLog, outlined: Outline, said: Sequence[Spoken], leisure: Leisure
) -> AsyncIterator[list[Spoken]]:
    """These messages of the conversation with their texts, a piece at a time. Raises LogUnavailable, also where texts
    have been erased meanwhile.
    """
    for batch in batched(said, MEASURED):
        sizes = await log.sizes([outlined.places[one.message_id] for one in batch if one.message_id in outlined.places])
        for piece in pieces_of(batch, partial(_size, outlined, sizes), PIECE_BYTES):
            async with leisure.piece():
                texts = await _texts(log, outlined, piece)
                page = [_with_text(one, texts.get(one.message_id)) for one in piece]
            yield page


def _size(outlined: Outline, sizes: dict[int, int], one: Spoken) -> int:
    return len(one.content) + sizes.get(outlined.places.get(one.message_id, 0), 0)


async def _texts(log: EventLog, outlined: Outline, piece: Sequence[Spoken]) -> dict[str, RecordedEvent]:
    """The events that hold the texts of these messages, by message."""
    places = {one.message_id: outlined.places[one.message_id] for one in piece if one.message_id in outlined.places}
    found = await log.read_at(list(places.values()))
    gone = [name for name, place in places.items() if place not in found or found[place].event is None]
    if gone:
        copies = {name: outlined.copies[name] for name in gone if name in outlined.copies}
        if len(copies) < len(gone):
            raise LogUnavailable("the messages were erased while they were read")
        found |= await log.read_at(list(copies.values()))
        places |= copies
    return {name: found[place] for name, place in places.items()}


def _with_text(one: Spoken, recorded: RecordedEvent | None) -> Spoken:
    event = recorded.event if recorded else None
    if event is None:
        return one
    full = msgspec.structs.replace(one, content=getattr(event, "content", ""))
    note_ending(full, event)
    return full


async def _last_covered(log: EventLog, session_id: str, moment: Moment, leisure: Leisure) -> int | None:
    """The last version that `moment` covers, 0 for none; None where it covers all that there is.

    Order is the version's: where the clock was set back, an event before a covered one is covered, too.
    """
    if moment == Moment():
        return None
    last = 0
    async for page in _pages(log, session_id, leisure):
        with leisure.work():
            last = max([last, *(one.version for one in page if moment.covers(one))])
    return last


async def _pages(log: EventLog, session_id: str, leisure: Leisure) -> AsyncIterator[list[RecordedEvent]]:
    after = 0
    while True:
        async with leisure.piece():
            page = await log.read(session_id, after=after, limit=PAGE, bytes_max=PIECE_BYTES)
        if not page:
            return
        yield page
        after = page[-1].version
