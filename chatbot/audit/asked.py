"""What models were asked: from the record alone, the very request behind each reply_started of a session."""

from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct

from chatbot.audit.desk import CommandFailed
from chatbot.llm import midm, openai
from chatbot.llm.protocol import ChatMessage
from chatbot.llm.refused_parameters import without
from chatbot.sessions.context import joined
from chatbot.sessions.reply_settings import settings_after
from events.catalogue import (
    ContentErased,
    Event,
    HistoryAdopted,
    MessageCopied,
    MessagePosted,
    MetadataChanged,
    ReplyCompleted,
    ReplyEnded,
    ReplySettings,
    ReplyStarted,
    SessionCreated,
    SessionDeleted,
)
from events.log import EventLog
from events.record import RecordedEvent

PAGE = 500  # events read at once


class Asked(Struct, frozen=True):
    """One call to a model, as `recorded` (a reply_started) tells it.

    `messages` is what the model was shown. `missing` names the messages of the context whose text is erased: with any
    of them the request is not whole. `ended` is how this attempt completed; None where it did not.
    """

    recorded: RecordedEvent
    started: ReplyStarted
    messages: tuple[ChatMessage, ...]
    missing: tuple[str, ...] = ()
    ended: ReplyCompleted | None = None

    def require(self) -> None:
        """Raises CommandFailed when a text of the context is gone."""
        if self.missing:
            raise CommandFailed(f"the text of message {', '.join(self.missing)} is erased: the request cannot be built")


class Texts:
    """The texts of a session as its events come, which is what a context is made of."""

    def __init__(self) -> None:
        self._system: str | None = None
        self._created = ReplySettings()
        self._said: dict[str, ChatMessage] = {}

    def note(self, event: Event) -> None:
        """One event more of the session."""
        match event:
            case SessionCreated():
                self._created, self._system = event.settings, event.system_prompt
            case MetadataChanged():
                self._system = settings_after(event, self._created).system_prompt
            case MessagePosted():
                self._said[event.message_id] = ChatMessage(event.role, event.content)
            case SessionDeleted() | ContentErased():
                self._created, self._system, self._said = ReplySettings(), None, {}
        if isinstance(event, ReplyEnded):
            self._said[event.reply_id] = ChatMessage("assistant", event.content)

    def adopt(self, message_id: str, role: str, kept: Event | None) -> None:
        """A message of another session, whose text `kept` holds; None: that is erased."""
        text = getattr(kept, "content", "")
        if text:
            self._said[message_id] = ChatMessage(role, text)

    def asked(self, recorded: RecordedEvent, started: ReplyStarted) -> Asked:
        """What `started` sent. No context holds an empty text, so a text that is not here was erased."""
        system = (ChatMessage("system", self._system),) if self._system else ()
        missing = tuple(one for one in started.context_ids if one not in self._said)
        said = tuple(self._said[one] for one in started.context_ids if one in self._said)
        return Asked(recorded, started, system + (joined(said) if started.joined else said), missing)


async def calls(log: EventLog, session_id: str) -> AsyncIterator[Asked]:
    """Every call to a model in this session, with its end once that is known, oldest first.

    A retried reply has a call for each attempt. Raises LogUnavailable, UnknownEvent.
    """
    texts = Texts()
    running: Asked | None = None
    async for recorded in _events(log, session_id):
        event = recorded.event
        if event is None:
            continue
        if isinstance(event, HistoryAdopted):
            await _adopt(log, session_id, event, texts)
        texts.note(event)
        if running is not None and isinstance(event, ReplyEnded) and event.reply_id == running.started.reply_id:
            completed = event if isinstance(event, ReplyCompleted) else None
            yield Asked(running.recorded, running.started, running.messages, running.missing, completed)
            running = None
        elif isinstance(event, ReplyStarted):
            if running is not None:
                yield running
            running = texts.asked(recorded, event)
    if running is not None:
        yield running


def request_of(asked: Asked, provider: str, model: str) -> dict[str, Any]:
    """The body of the request, as the provider of this name sends it. Raises CommandFailed for one that has none.

    Without what the model server refused, which only a completed reply records.
    """
    if provider == "midm":
        return midm.request_body(asked.messages, asked.started.parameters)
    if provider in ("openai", "embedded"):
        body = openai.request_body(asked.messages, asked.started.parameters, model) | openai.WITH_USAGE
        return without(body, frozenset(asked.ended.refused_parameters if asked.ended else ()))
    raise CommandFailed(
        "the reply started before the model server had told which protocol it speaks: name it with --as", 2
    )


async def _events(log: EventLog, session_id: str) -> AsyncIterator[RecordedEvent]:
    after = 0
    while page := await log.read(session_id, after=after, limit=PAGE):
        for recorded in page:
            yield recorded
        after = page[-1].version


async def _adopt(log: EventLog, session_id: str, adopted: HistoryAdopted, texts: Texts) -> None:
    """The texts lie where they were written or, where that was erased since, were copied into this session before."""
    held = await log.read_at([message.position for message in adopted.messages])
    kept = {one.message_id: held[one.position].event for one in adopted.messages if one.position in held}
    if any(kept.get(one.message_id) is None for one in adopted.messages):
        async for recorded in _events(log, session_id):
            if isinstance(recorded.event, MessageCopied) and kept.get(recorded.event.message_id) is None:
                kept[recorded.event.message_id] = recorded.event
    for message in adopted.messages:
        texts.adopt(message.message_id, message.role, kept.get(message.message_id))
