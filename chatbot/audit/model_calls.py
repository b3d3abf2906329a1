"""The calls to models, rebuilt from the log alone: the exact request behind each reply_started of a session."""

from collections.abc import AsyncIterator
from typing import Any, assert_never

from msgspec import Struct
from msgspec.structs import replace

from chatbot.audit.conversation import parts_in, text_in
from chatbot.llm.http.refused_parameters import without_parameters
from chatbot.llm.provider import ModelMessage
from chatbot.llm.providers import midm_provider, openai_provider
from chatbot.sessions.domain.context import ContextMessage
from chatbot.sessions.domain.model_request import build_messages, system_prompt_of
from chatbot.sessions.domain.state import settings_after
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
)
from events.log import EventLog
from events.paging import read_pages
from events.record import RecordedEvent
from events.schema.parts import call_ids_of, is_redacted
from projections.folds.message import CLOSED, OPEN

PAGE = 500  # events read at once


class TextsErased(Exception):
    """A text of the context is erased, so the request cannot be built."""


class UnknownProtocol(Exception):
    """The record does not say which protocol the model server spoke."""


class ModelCall(Struct, frozen=True):
    """One call to a model; `recorded` is its reply_started.

    `messages` are those that the model was sent. `erased_message_ids` are the messages of the context whose text is
    erased: with any of them the request is incomplete. Those of `redacted_message_ids` were redacted since, and say so
    in place of what was sent. `completed` is None where this attempt did not complete.
    """

    recorded: RecordedEvent
    started: ReplyStarted
    messages: tuple[ModelMessage, ...]
    erased_message_ids: tuple[str, ...] = ()
    completed: ReplyCompleted | None = None
    redacted_message_ids: tuple[str, ...] = ()
    ended_provider: str | None = None

    @property
    def provider(self) -> str:
        """The protocol that the model server spoke: of several servers known only once one was asked."""
        return self.ended_provider or self.started.provider

    def require_texts(self) -> None:
        """Raises TextsErased where a text of the context is erased."""
        if self.erased_message_ids:
            raise TextsErased(
                f"the text of message {', '.join(self.erased_message_ids)} is erased: the request cannot be built"
            )


class ContextBuilder:
    """Folds a session's events into the texts that a model's context is made of."""

    def __init__(self) -> None:
        self._system: str | None = None
        self._created = ReplySettings()
        self._messages: dict[str, ContextMessage] = {}

    def apply(self, event: LoggedEvent) -> None:
        """Apply the next event of the session. Adopted messages are added by `add_adopted`."""
        match event:
            case SessionCreated():
                self._created, self._system = event.settings, event.system_prompt
            case MetadataChanged():
                self._system = settings_after(event, self._created).system_prompt
            case MessagePosted():
                calls = CLOSED if event.imported and call_ids_of(event.parts) else None
                message = ContextMessage(
                    event.message_id, event.parent_id, event.role, event.content, event.parts, calls
                )
                self._messages[event.message_id] = message
            case SessionDeleted() | ContentErased():
                self._created, self._system, self._messages = ReplySettings(), None, {}
            case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                calls = OPEN if isinstance(event, ReplyCompleted) and call_ids_of(event.parts) else None
                message = ContextMessage(event.reply_id, None, "assistant", event.content, event.parts, calls)
                self._messages[event.reply_id] = message
            case (
                SessionAccessed()
                | SessionRead()
                | SessionViewed()
                | MessageWithdrawn()
                | SessionExpired()
                | ReplyRequested()
                | ReplyStarted()
                | ReplyProgressed()
                | ToolCallsClosed()
                | BranchSelected()
                | HistoryAdopted()
                | MessageCopied()
                | MessageRedacted()
                | ReservedEvent()
                | IgnoredEvent()
            ):
                pass
            case _:
                assert_never(event)

    def add_adopted(self, adopted: AdoptedMessage, source: LoggedEvent | None) -> None:
        """Add a message of another session, whose text the event `source` holds; None: the text is erased."""
        text, parts = text_in(source), parts_in(source)
        if text or parts:
            self._messages[adopted.message_id] = ContextMessage(
                adopted.message_id, adopted.parent_id, adopted.role, text, parts, adopted.calls
            )

    def redacted_in(self, started: ReplyStarted) -> tuple[str, ...]:
        """The messages of the context of which something is redacted: before the call was made, or after it."""
        known = [self._messages[one] for one in started.context_ids if one in self._messages]
        return tuple(one.message_id for one in known if is_redacted(one.parts))

    def model_call(self, recorded: RecordedEvent, started: ReplyStarted) -> ModelCall:
        """The call that `started` made. A context never has an empty text, so a message without a text was erased."""
        erased_message_ids = tuple(one for one in started.context_ids if one not in self._messages)
        sent = build_messages(
            system_prompt_of(started.parameters, self._system),
            [self._messages[one] for one in started.context_ids if one in self._messages],
            joined=started.joined,
            send_reasoning=bool(started.parameters.send_reasoning),
            media_left_out=started.context_left_out.media if started.context_left_out is not None else 0,
        )
        return ModelCall(recorded, started, sent, erased_message_ids)


async def read_model_calls(log: EventLog, session_id: str) -> AsyncIterator[ModelCall]:
    """Every call to a model in this session, oldest first, each with its end if it completed.

    A retried reply has one call per attempt. Raises LogUnavailable, UnknownEvent.
    """
    texts = ContextBuilder()
    running: ModelCall | None = None
    redactions: dict[str, int] = {}
    async for recorded in _read_events(log, session_id):
        event = recorded.event
        if event is None:
            continue
        if isinstance(event, HistoryAdopted):
            await _add_adopted_texts(log, session_id, event, texts)
        texts.apply(event)
        if running is not None and isinstance(event, ReplyEnded) and event.reply_id == running.started.reply_id:
            completed = event if isinstance(event, ReplyCompleted) else None
            yield replace(running, completed=completed, ended_provider=event.provider)
            running = None
        elif isinstance(event, ReplyStarted):
            if running is not None:
                yield running
            running = texts.model_call(recorded, event)
            if suspected := texts.redacted_in(event):
                redactions = redactions or await _find_redactions(log, session_id)
                later = tuple(one for one in suspected if redactions.get(one, 0) > recorded.version)
                running = replace(running, redacted_message_ids=later)
    if running is not None:
        yield running


async def _find_redactions(log: EventLog, session_id: str) -> dict[str, int]:
    """The messages that were redacted, each with the version of its last redaction."""
    return {
        recorded.event.message_id: recorded.version
        async for recorded in _read_events(log, session_id)
        if isinstance(recorded.event, MessageRedacted)
    }


def build_request_body(model_call: ModelCall, provider: str, model: str) -> dict[str, Any]:
    """The JSON body of the request, as the named provider sends it, with media:<sha256> in place of the bytes of a file
    (GET /api/media/<sha256> has them); without the parameters that the model server refused, which only a completed
    reply records. Raises UnknownProtocol for any other name.
    """
    if provider == "midm":
        return midm_provider.request_body(model_call.messages, model_call.started.parameters)
    if provider in ("openai", "embedded"):
        body = (
            openai_provider.request_body(model_call.messages, model_call.started.parameters, model, refer_to_media=True)
            | openai_provider.WITH_USAGE
        )
        return without_parameters(
            body, frozenset(model_call.completed.refused_parameters if model_call.completed else ())
        )
    raise UnknownProtocol("the reply started before the model server had told which protocol it speaks")


async def _read_events(log: EventLog, session_id: str) -> AsyncIterator[RecordedEvent]:
    async for page in read_pages(log, session_id, page_max=PAGE):
        for recorded in page:
            yield recorded


async def _add_adopted_texts(log: EventLog, session_id: str, adopted: HistoryAdopted, texts: ContextBuilder) -> None:
    """Adopted texts are in the events that wrote them or, where those are erased, in copies in this session."""
    found = await log.read_at([message.position for message in adopted.messages])
    sources = {one.message_id: found[one.position].event for one in adopted.messages if one.position in found}
    if any(sources.get(one.message_id) is None for one in adopted.messages):
        async for recorded in _read_events(log, session_id):
            if isinstance(recorded.event, MessageCopied) and sources.get(recorded.event.message_id) is None:
                sources[recorded.event.message_id] = recorded.event
    for message in adopted.messages:
        texts.add_adopted(message, sources.get(message.message_id))
