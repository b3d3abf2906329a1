"""What models were asked: from the record alone, the very request behind each reply_started of a session."""

from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct

from chatbot.llm.http.refused_parameters import without_parameters
from chatbot.llm.provider import ChatMessage
from chatbot.llm.providers import midm_provider, openai_provider
from chatbot.sessions.domain.state import join_consecutive, settings_after
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


class TextsErased(Exception):
    """A text of the context is erased, so the request cannot be built."""


class UnknownProtocol(Exception):
    """The record does not say which protocol the model server spoke."""


class ModelCall(Struct, frozen=True):
    """One call to a model, as `recorded` (a reply_started) tells it.

    `messages` is what the model was shown. `missing` names the messages of the context whose text is erased: with any
    of them the request is not whole. `ended` is how this attempt completed; None where it did not.
    """

    recorded: RecordedEvent
    started: ReplyStarted
    messages: tuple[ChatMessage, ...]
    erased_message_ids: tuple[str, ...] = ()
    completed: ReplyCompleted | None = None

    def require_texts(self) -> None:
        """Raises TextsErased when a text of the context is gone."""
        if self.erased_message_ids:
            raise TextsErased(
                f"the text of message {', '.join(self.erased_message_ids)} is erased: the request cannot be built"
            )


class ContextBuilder:
    """The texts of a session as its events come, which is what a context is made of."""

    def __init__(self) -> None:
        self._system: str | None = None
        self._created = ReplySettings()
        self._messages: dict[str, ChatMessage] = {}

    def apply(self, event: Event) -> None:
        """One event more of the session."""
        match event:
            case SessionCreated():
                self._created, self._system = event.settings, event.system_prompt
            case MetadataChanged():
                self._system = settings_after(event, self._created).system_prompt
            case MessagePosted():
                self._messages[event.message_id] = ChatMessage(event.role, event.content)
            case SessionDeleted() | ContentErased():
                self._created, self._system, self._messages = ReplySettings(), None, {}
        if isinstance(event, ReplyEnded):
            self._messages[event.reply_id] = ChatMessage("assistant", event.content)

    def add_adopted(self, message_id: str, role: str, kept: Event | None) -> None:
        """A message of another session, whose text `kept` holds; None: that is erased."""
        text = getattr(kept, "content", "")
        if text:
            self._messages[message_id] = ChatMessage(role, text)

    def model_call(self, recorded: RecordedEvent, started: ReplyStarted) -> ModelCall:
        """What `started` sent. No context holds an empty text, so a text that is not here was erased."""
        system = (ChatMessage("system", self._system),) if self._system else ()
        erased_message_ids = tuple(one for one in started.context_ids if one not in self._messages)
        said = tuple(self._messages[one] for one in started.context_ids if one in self._messages)
        return ModelCall(
            recorded, started, system + (join_consecutive(said) if started.joined else said), erased_message_ids
        )


async def read_model_calls(log: EventLog, session_id: str) -> AsyncIterator[ModelCall]:
    """Every call to a model in this session, with its end once that is known, oldest first.

    A retried reply has a call for each attempt. Raises LogUnavailable, UnknownEvent.
    """
    texts = ContextBuilder()
    running: ModelCall | None = None
    async for recorded in _read_events(log, session_id):
        event = recorded.event
        if event is None:
            continue
        if isinstance(event, HistoryAdopted):
            await _add_adopted_texts(log, session_id, event, texts)
        texts.apply(event)
        if running is not None and isinstance(event, ReplyEnded) and event.reply_id == running.started.reply_id:
            completed = event if isinstance(event, ReplyCompleted) else None
            yield ModelCall(running.recorded, running.started, running.messages, running.erased_message_ids, completed)
            running = None
        elif isinstance(event, ReplyStarted):
            if running is not None:
                yield running
            running = texts.model_call(recorded, event)
    if running is not None:
        yield running


def build_request_body(model_call: ModelCall, provider: str, model: str) -> dict[str, Any]:
    """The body of the request, as the provider of this name sends it. Raises UnknownProtocol for one that has none.

    Without what the model server refused, which only a completed reply records.
    """
    if provider == "midm":
        return midm_provider.request_body(model_call.messages, model_call.started.parameters)
    if provider in ("openai", "embedded"):
        body = (
            openai_provider.request_body(model_call.messages, model_call.started.parameters, model)
            | openai_provider.WITH_USAGE
        )
        return without_parameters(
            body, frozenset(model_call.completed.refused_parameters if model_call.completed else ())
        )
    raise UnknownProtocol("the reply started before the model server had told which protocol it speaks")


async def _read_events(log: EventLog, session_id: str) -> AsyncIterator[RecordedEvent]:
    after = 0
    while page := await log.read(session_id, after=after, limit=PAGE):
        for recorded in page:
            yield recorded
        after = page[-1].version


async def _add_adopted_texts(log: EventLog, session_id: str, adopted: HistoryAdopted, texts: ContextBuilder) -> None:
    """The texts lie where they were written or, where that was erased since, were copied into this session before."""
    held = await log.read_at([message.position for message in adopted.messages])
    kept = {one.message_id: held[one.position].event for one in adopted.messages if one.position in held}
    if any(kept.get(one.message_id) is None for one in adopted.messages):
        async for recorded in _read_events(log, session_id):
            if isinstance(recorded.event, MessageCopied) and kept.get(recorded.event.message_id) is None:
                kept[recorded.event.message_id] = recorded.event
    for message in adopted.messages:
        texts.add_adopted(message.message_id, message.role, kept.get(message.message_id))
