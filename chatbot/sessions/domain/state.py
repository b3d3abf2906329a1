"""What a live session keeps in memory, and how each recorded event changes it. Pure.

Which messages the model is shown, and in which form. Pure.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from chatbot.llm.provider import ChatMessage
from chatbot.sessions.domain.reply_settings import settings_after
from events.catalogue import (
    ContentErased,
    MessagePosted,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplySettings,
    SessionCreated,
    SessionDeleted,
)
from events.record import RecordedEvent
from projections.folds import session as facts


class ContextMessage(Struct, frozen=True):
    """A message whose text is at hand for the next context."""

    message_id: str
    parent_id: str | None
    role: str
    content: str


class State(Struct, frozen=True):
    """`session` holds the projected facts; the rest are texts, which only the log and live actors hold. `created` are
    the settings that the session was made with.

    `recent` has the newest messages seen, by id, oldest first; it may have gaps, which the actor fills on demand.
    """

    session: facts.Session
    metadata: dict[str, Any]
    title: str | None = None
    settings: ReplySettings = ReplySettings()
    created: ReplySettings = ReplySettings()
    recent: dict[str, ContextMessage] = {}


def evolve(state: State | None, recorded: RecordedEvent, recent_max: int) -> State:
    """The state after one more event; `recent` keeps at most `recent_max` messages."""
    session = facts.evolve(state.session if state else None, recorded)
    event = recorded.event
    if state is None:
        state = State(session=session, metadata={})
    match event:
        case SessionCreated():
            return State(session, event.metadata, event.title, event.settings, event.settings)
        case MetadataChanged():
            settings = settings_after(event, state.created)
            return replace(state, session=session, metadata=event.metadata, title=event.title, settings=settings)
        case SessionDeleted() | ContentErased():
            return State(session, metadata={})
        case MessagePosted():
            message = ContextMessage(event.message_id, event.parent_id, event.role, event.content)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            message = ContextMessage(event.reply_id, _question_of(state.session, event), "assistant", event.content)
        case _:
            return replace(state, session=session)
    return replace(state, session=session, recent=_with_message(state.recent, message, recent_max))


def fold_history(history: Sequence[RecordedEvent]) -> State:
    """The state that a whole history leads to. It must not be empty."""
    state = evolve(None, history[0], recent_max=0)
    for recorded in history[1:]:
        state = evolve(state, recorded, recent_max=0)
    return state


def _question_of(session: facts.Session, event: ReplyEnded) -> str | None:
    running = session.open_reply
    if running is not None and running.reply_id == event.reply_id:
        return running.message_id
    return next((waiting.message_id for waiting in session.pending if waiting.reply_id == event.reply_id), None)


def _with_message(
    recent: dict[str, ContextMessage], message: ContextMessage, recent_max: int
) -> dict[str, ContextMessage]:
    kept = {**recent, message.message_id: message}
    while len(kept) > recent_max:
        del kept[next(iter(kept))]
    return kept


CONTEXT_LOOK_BACK = 2  # times the limit: how far back messages are looked for when some of the newest are empty

# What becomes of messages that got no reply: many model servers refuse two messages of one role in a row.
Unanswered = Literal["omit", "join"]


def select_context(
    recent: dict[str, ContextMessage], leaf: str | None, limit: int, unanswered: Unanswered
) -> tuple[ContextMessage, ...] | None:
    """The newest `limit` messages of the branch that ends in `leaf`, oldest first; None when `recent` has a gap.

    Looks back over at most LOOK_BACK x `limit` messages.

    Empty messages (a reply that failed before its first token) are passed over: model servers refuse them. With
    `omit` so is a message that the next one shown has the role of, so that roles alternate. The context never starts
    with an assistant message, whose question would be missing.
    """
    newest_first: list[ContextMessage] = []
    for _ in range(CONTEXT_LOOK_BACK * limit):
        if leaf is None or len(newest_first) == limit:
            break
        message = recent.get(leaf)
        if message is None:
            return None
        is_answered = not newest_first or newest_first[-1].role != message.role
        if message.content and (is_answered or unanswered == "join"):
            newest_first.append(message)
        leaf = message.parent_id
    while newest_first and newest_first[-1].role == "assistant":
        newest_first.pop()
    return tuple(reversed(newest_first))


def joined(messages: Iterable[ChatMessage]) -> tuple[ChatMessage, ...]:
    """`messages` with a blank line in place of each border between two of one role."""
    kept: list[ChatMessage] = []
    for message in messages:
        if kept and kept[-1].role == message.role:
            kept[-1] = ChatMessage(message.role, f"{kept[-1].content}\n\n{message.content}")
        else:
            kept.append(message)
    return tuple(kept)
