"""What a live session keeps in memory, and how each recorded event changes it. Pure."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from chatbot.sessions.reply_settings import settings_after
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
from projections import session as facts


class Remembered(Struct, frozen=True):
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
    recent: dict[str, Remembered] = {}


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
            said = Remembered(event.message_id, event.parent_id, event.role, event.content)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            said = Remembered(event.reply_id, _parent_of(state.session, event), "assistant", event.content)
        case _:
            return replace(state, session=session)
    return replace(state, session=session, recent=_remember(state.recent, said, recent_max))


def folded(history: Sequence[RecordedEvent]) -> State:
    """The state that a whole history leads to. It must not be empty."""
    state = evolve(None, history[0], recent_max=0)
    for recorded in history[1:]:
        state = evolve(state, recorded, recent_max=0)
    return state


def _parent_of(session: facts.Session, event: ReplyEnded) -> str | None:
    running = session.open_reply
    if running is not None and running.reply_id == event.reply_id:
        return running.message_id
    return next((waiting.message_id for waiting in session.pending if waiting.reply_id == event.reply_id), None)


def _remember(recent: dict[str, Remembered], said: Remembered, recent_max: int) -> dict[str, Remembered]:
    kept = {**recent, said.message_id: said}
    while len(kept) > recent_max:
        del kept[next(iter(kept))]
    return kept
