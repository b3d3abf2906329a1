"""The state of a session's aggregate and what its decisions depend on besides. Pure.

`State` and `evolve` fold recorded events. `select_context` chooses the messages that a model is sent. `Rules` are the
service's settings; `merge_parameters` and `changed_settings` combine them with the session's and the request's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, assert_never

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict, replace

from chatbot.llm.provider import ChatMessage
from events.catalogue import (
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    IgnoredEvent,
    MessageCopied,
    MessagePosted,
    MetadataChanged,
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
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    ToolCallsClosed,
)
from events.parameters import UNNAMED
from events.record import RecordedEvent
from projections.folds import session as facts

CONTEXT_LOOK_BACK = 2  # times the context's limit: how far back to search when some of the newest messages are empty

# Messages without a reply: many model servers refuse two messages of one role in a row.
Unanswered = Literal["omit", "join"]

_UNNAMED_VALUES = asdict(UNNAMED)  # the value of each parameter that is not set


class Rules(Struct, frozen=True):
    """Settings that decisions depend on. Times in microseconds.

    `models`: the configured or offered names; metrics and usage never contain another name that a client chose.
    `context_tokens`: the size of any model's context; 0: what is known of the model that is asked.
    `is_shared`: other nodes append to the same log, so replies that this node owes are recorded under its name.
    """

    node: str
    provider: str
    model: str
    max_context_messages: int
    pending_max: int
    access_resolution_us: int
    auth: bool = False
    retry_interrupted: int = 0
    is_shared: bool = False
    unanswered: Unanswered = "omit"
    models: frozenset[str] = frozenset()
    defaults: Parameters = Parameters()
    tokens_max: int | None = None
    context_tokens: int = 0
    image_tokens: int = 1024
    tool_rounds_max: int = 32
    request_media_max_bytes: int = 33_554_432

    @property
    def owner_node(self) -> str | None:
        """The node recorded as owner of a queued reply; None if this process serves alone."""
        return self.node if self.is_shared else None

    @property
    def recent_max(self) -> int:
        """Messages that a state keeps: what a context searches, the queued messages, and as many replies."""
        return CONTEXT_LOOK_BACK * self.max_context_messages + 2 * self.pending_max + 2


class ContextMessage(Struct, frozen=True):
    """A message with its text, loaded for the next context."""

    message_id: str
    parent_id: str | None
    role: str
    content: str


class State(Struct, frozen=True):
    """`session` holds the projected facts. The rest are texts, which only the log and live actors hold. `created` are
    the settings that the session was created with.

    `recent` has the newest messages seen, by id, from old to new: when it is full the first is dropped. It may have
    gaps, which the actor loads on demand.
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
            message = ContextMessage(event.reply_id, _parent_of_reply(state.session, event), "assistant", event.content)
        case (
            SessionAccessed()
            | SessionExpired()
            | ReplyRequested()
            | ReplyStarted()
            | ReplyProgressed()
            | ToolCallsClosed()
            | BranchSelected()
            | HistoryAdopted()
            | MessageCopied()
            | IgnoredEvent()
            | None
        ):
            return replace(state, session=session)
        case _:
            assert_never(event)
    return replace(state, session=session, recent=_with_message(state.recent, message, recent_max))


def fold_history(history: Sequence[RecordedEvent]) -> State:
    """The state that a whole history leads to. The history must not be empty."""
    state = evolve(None, history[0], recent_max=0)
    for recorded in history[1:]:
        state = evolve(state, recorded, recent_max=0)
    return state


def with_newest(state: State, messages: Sequence[ContextMessage]) -> State:
    """`state` with `messages` as the newest of `recent`, so that none of them is dropped before they are used."""
    newest_first = zip(reversed(messages), reversed(state.recent), strict=False)
    if len(state.recent) >= len(messages) and all(one.message_id == id_ for one, id_ in newest_first):
        return state
    moved = {one.message_id: one for one in messages}
    others = {id_: one for id_, one in state.recent.items() if id_ not in moved}
    return replace(state, recent={**others, **moved})


def own_reply_ids(session: facts.Session, node: str) -> set[str]:
    """The replies that `node` owes or writes in the session."""
    open_replies = (session.open_reply, *session.pending)
    return {one.reply_id for one in open_replies if one is not None and one.node == node}


def _parent_of_reply(session: facts.Session, event: ReplyEnded) -> str | None:
    open_reply = session.open_reply
    if open_reply is not None and open_reply.reply_id == event.reply_id:
        return open_reply.message_id
    return next((one.message_id for one in session.pending if one.reply_id == event.reply_id), None)


def _with_message(
    recent: dict[str, ContextMessage], message: ContextMessage, recent_max: int
) -> dict[str, ContextMessage]:
    kept = {**recent, message.message_id: message}
    while len(kept) > recent_max:
        del kept[next(iter(kept))]
    return kept


def select_context(
    recent: Mapping[str, ContextMessage], leaf: str | None, limit: int, unanswered: Unanswered
) -> tuple[ContextMessage, ...] | None:
    """The newest `limit` messages of the branch that ends in `leaf`, oldest first; None when `recent` has a gap.

    Searches at most CONTEXT_LOOK_BACK x `limit` messages. Skips empty messages (a reply that failed before its first
    token), which model servers refuse. With `omit`, also skips a message whose successor in the context has the same
    role, so that roles alternate. The context never starts with an assistant message, whose question would be missing.
    """
    newest_first: list[ContextMessage] = []
    for _ in range(CONTEXT_LOOK_BACK * limit):
        if leaf is None or len(newest_first) == limit:
            break
        message = recent.get(leaf)
        if message is None:
            return None
        alternates = not newest_first or newest_first[-1].role != message.role
        if message.content and (alternates or unanswered == "join"):
            newest_first.append(message)
        leaf = message.parent_id
    while newest_first and newest_first[-1].role == "assistant":
        newest_first.pop()
    return tuple(reversed(newest_first))


def join_consecutive(messages: Iterable[ChatMessage]) -> tuple[ChatMessage, ...]:
    """`messages` with neighbours of one role merged, a blank line between their texts."""
    kept: list[ChatMessage] = []
    for message in messages:
        if kept and kept[-1].role == message.role:
            kept[-1] = ChatMessage(message.role, f"{kept[-1].content}\n\n{message.content}")
        else:
            kept.append(message)
    return tuple(kept)


def merge_parameters(*parameters: Parameters, without_stop: bool = False, tokens_max: int | None = None) -> Parameters:
    """Each parameter from the first of `parameters` that sets it. `without_stop`: the first sets an empty list.

    `tokens_max` bounds max_new_tokens: settings and earlier turns may be older than the operator's limit.
    """
    found = dict(_UNNAMED_VALUES)
    for one in reversed(parameters):
        found |= {name: value for name, value in asdict(one).items() if value != _UNNAMED_VALUES[name]}
    if without_stop:
        found["stop"] = ()
    if tokens_max is not None and found["max_new_tokens"] is not None:
        found["max_new_tokens"] = min(found["max_new_tokens"], tokens_max)
    return _interned(Parameters(**found))


def changed_settings(
    settings: ReplySettings, system_prompt: str | UnsetType | None, parameters: Mapping[str, Any]
) -> ReplySettings:
    """`settings` with the given values; None removes a parameter or the prompt."""
    prompt = settings.system_prompt if system_prompt is UNSET else system_prompt or None
    named = {name: _UNNAMED_VALUES[name] if value is None else value for name, value in parameters.items()}
    return ReplySettings(prompt, _interned(replace(settings.parameters, **named)))


def settings_after(changed: MetadataChanged, created: ReplySettings) -> ReplySettings:
    """The settings after a recorded change of a session that was created with `created`."""
    return created if changed.settings is None else changed.settings


def _interned(parameters: Parameters) -> Parameters:
    return UNNAMED if parameters == UNNAMED else parameters
