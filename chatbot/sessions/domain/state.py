"""The state of a session's aggregate and what its decisions depend on besides. Pure.

`State` and `evolve` fold recorded events. `Rules` are the service's settings; `merge_parameters` and
`changed_settings` combine them with the session's and the request's.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar, assert_never

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import encode
from msgspec.structs import asdict, astuple, replace

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import USER_ID, Caller, IdempotencyKey
from chatbot.sessions.domain.context import ContextLimits, ContextMessage, Unanswered, estimate_text_tokens
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
)
from events.record import RecordedEvent
from events.schema.parameters import UNNAMED
from events.schema.parts import call_ids_of, parts_of, stored_parts, text_of, with_redacted
from projections.folds import session as facts
from projections.folds.message import ANSWERED, CLOSED, OPEN

_UNNAMED_VALUES = asdict(UNNAMED)  # the value of each parameter that is not set


class Rules(Struct, frozen=True):
    """Settings that decisions depend on. Times in microseconds.

    `models`: the configured or offered names; metrics and usage never contain another name that a client chose.
    `context_tokens`: the size of any model's context; 0: what is known of the model that is asked.
    `added_max`: messages of a transcript that one append may add.
    `is_shared`: other nodes append to the same log, so replies that this node owes are recorded under its name.
    """

    node: str
    provider: str
    model: str
    max_context_messages: int
    pending_max: int
    access_resolution_us: int
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
    added_max: int = 500

    @property
    def owner_node(self) -> str | None:
        """The node recorded as owner of a queued reply; None if this process serves alone."""
        return self.node if self.is_shared else None

    @property
    def recent_max(self) -> int:
        """Messages that a state keeps: what a context searches, the queued messages, and as many replies."""
        return self._limits.look_back + 2 * self.pending_max + 2

    @property
    def tools_recent_max(self) -> int:
        """As `recent_max`, of a session with tool calls."""
        return self._limits.tools_look_back + 2 * self.pending_max + 2

    @property
    def _limits(self) -> ContextLimits:
        return ContextLimits(self.max_context_messages, tool_rounds=self.tool_rounds_max)

    def context_limits(
        self, parameters: Parameters, system_prompt: str | None = None, context_tokens: int | None = None
    ) -> ContextLimits:
        """Of the context of a reply with these parameters. `context_tokens`: what is known of its model."""
        size_tokens = self.context_tokens or context_tokens or None
        other_tokens = 0
        if size_tokens is not None:
            tools = "" if parameters.tools is None else encode(parameters.tools).decode()
            other_tokens = estimate_text_tokens(system_prompt or "") + estimate_text_tokens(tools)
        return ContextLimits(
            messages=self.max_context_messages,
            unanswered=self.unanswered,
            tool_rounds=self.tool_rounds_max,
            send_reasoning=bool(parameters.send_reasoning),
            size_tokens=size_tokens,
            reply_tokens=parameters.max_new_tokens or 0,
            other_tokens=other_tokens,
            image_tokens=self.image_tokens,
            media_bytes=self.request_media_max_bytes,
        )


class State(Struct, frozen=True):
    """`session` holds the projected facts. The rest are texts, which only the log and live actors hold. `created` are
    the settings that the session was created with.

    `recent` has the newest messages seen, by id, from old to new: when it is full the first is dropped. It may have
    gaps, which the actor loads on demand. `has_tools`: messages with tool calls were among them, so it may hold more.
    """

    session: facts.Session
    metadata: dict[str, Any]
    title: str | None = None
    settings: ReplySettings = ReplySettings()
    created: ReplySettings = ReplySettings()
    recent: dict[str, ContextMessage] = {}
    has_tools: bool = False


def evolve(  # noqa: PLR0912  an arm for each event
    state: State | None, recorded: RecordedEvent, recent_max: int, tools_recent_max: int = 0
) -> State:
    """The state after one more event; `recent` keeps at most `recent_max` messages, with tool calls `tools_recent_max`
    if that is more.
    """
    session = facts.evolve(state.session if state else None, recorded)
    event = recorded.event
    if state is None:
        state = State(session=session, metadata={})
    match event:  # the most frequent first: a pattern that does not match costs as much as three function calls
        case MessagePosted():
            message = context_message(state, event)
            if event.role == "tool":
                state = _with_calls(state, event.parent_id, ANSWERED)
        case ReplyStarted() | ReplyProgressed():
            return replace(state, session=session)
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            message = _ended_reply(state, event)
        case SessionCreated():
            return State(session, event.metadata, event.title, event.settings, event.settings)
        case MetadataChanged():
            settings = settings_after(event, state.created)
            return replace(state, session=session, metadata=event.metadata, title=event.title, settings=settings)
        case SessionDeleted() | ContentErased():
            return State(session, metadata={})
        case MessageWithdrawn():
            return replace(state, session=session, recent=_without_withdrawn(state.recent, event))
        case MessageRedacted():
            return replace(state, session=session, recent=_with_redacted(state.recent, event))
        case ToolCallsClosed():
            return replace(_with_calls(state, event.reply_id, CLOSED), session=session)
        case (
            SessionAccessed()
            | SessionRead()
            | SessionViewed()
            | SessionExpired()
            | ReplyRequested()
            | BranchSelected()
            | HistoryAdopted()
            | MessageCopied()
            | ReservedEvent()
            | IgnoredEvent()
            | None
        ):
            return replace(state, session=session)
        case _:
            assert_never(event)
    has_tools = state.has_tools or message.is_of_tools
    kept_max = max(recent_max, tools_recent_max) if has_tools else recent_max
    return replace(state, session=session, recent=_with_message(state.recent, message, kept_max), has_tools=has_tools)


def fold_history(history: Sequence[RecordedEvent]) -> State:
    """The state that a whole history leads to. The history must not be empty."""
    state = evolve(None, history[0], recent_max=0)
    for recorded in history[1:]:
        state = evolve(state, recorded, recent_max=0)
    return state


def with_newest(state: State, messages: Sequence[ContextMessage]) -> State:
    """`state` with `messages` as the newest of `recent`, so that none of them is dropped before they are used."""
    newest_ids = list(islice(reversed(state.recent), len(messages)))
    if newest_ids == [one.message_id for one in reversed(messages)]:
        return state
    moved = {one.message_id: one for one in messages}
    others = {id_: one for id_, one in state.recent.items() if id_ not in moved}
    has_tools = state.has_tools or any(one.is_of_tools for one in messages)
    return replace(state, recent={**others, **moved}, has_tools=has_tools)


def is_being_written(state: State, reply_id: str | None) -> bool:
    """Whether the reply runs or waits."""
    session = state.session
    return any(one is not None and one.reply_id == reply_id for one in (session.open_reply, *session.pending))


def own_reply_ids(session: facts.Session, node: str) -> set[str]:
    """The replies that `node` owes or writes in the session."""
    open_replies = (session.open_reply, *session.pending)
    return {one.reply_id for one in open_replies if one is not None and one.node == node}


def context_message(state: State, event: MessagePosted) -> ContextMessage:
    """The posted message as a context has it."""
    calls = CLOSED if event.imported and event.parts and call_ids_of(event.parts) else None
    depth = _depth_under(state, event.parent_id)
    return ContextMessage(event.message_id, event.parent_id, event.role, event.content, event.parts, calls, depth)


def _ended_reply(state: State, event: ReplyEnded) -> ContextMessage:
    parent_id = _parent_of_reply(state.session, event)
    calls = OPEN if isinstance(event, ReplyCompleted) and event.parts and call_ids_of(event.parts) else None
    depth = _depth_under(state, parent_id)
    return ContextMessage(event.reply_id, parent_id, "assistant", event.content, event.parts, calls, depth)


def _depth_under(state: State, parent_id: str | None) -> int:
    """The depth of a message under this parent; 0: unknown."""
    if parent_id is None:
        return 1
    parent = state.recent.get(parent_id)
    return parent.depth + 1 if parent is not None and parent.depth else 0


def _with_calls(state: State, reply_id: str | None, calls: str) -> State:
    """`state` after the tool calls of a reply were settled."""
    reply = state.recent.get(reply_id) if reply_id is not None else None
    if reply is None or reply.calls is None:
        return state
    return replace(state, recent={**state.recent, reply.message_id: replace(reply, calls=calls)})


def _parent_of_reply(session: facts.Session, event: ReplyEnded) -> str | None:
    open_reply = session.open_reply
    if open_reply is not None and open_reply.reply_id == event.reply_id:
        return open_reply.message_id
    return next((one.message_id for one in session.pending if one.reply_id == event.reply_id), None)


def _without_withdrawn(recent: dict[str, ContextMessage], event: MessageWithdrawn) -> dict[str, ContextMessage]:
    """`recent` without the withdrawn message. The depth of later ones is unknown: they may be below it."""
    kept: dict[str, ContextMessage] = {}
    is_later = False
    for message_id, message in recent.items():
        if message_id == event.message_id:
            is_later = True
            continue
        parent_id = event.parent_id if message.parent_id == event.reply_id else message.parent_id
        kept[message_id] = replace(message, parent_id=parent_id, depth=0) if is_later else message
    return kept


def _with_redacted(recent: dict[str, ContextMessage], event: MessageRedacted) -> dict[str, ContextMessage]:
    message = recent.get(event.message_id)
    if message is None:
        return recent
    parts = with_redacted(parts_of(message), event.part, event.reason_code)
    redacted = replace(message, content=text_of(parts), parts=stored_parts(parts))
    return {one.message_id: redacted if one is message else one for one in recent.values()}


def _with_message(
    recent: dict[str, ContextMessage], message: ContextMessage, recent_max: int
) -> dict[str, ContextMessage]:
    kept = {**recent, message.message_id: message}
    while len(kept) > recent_max:
        del kept[next(iter(kept))]
    return kept


def end_user_of(state: State) -> str | None:
    """The end user of the owner that the session belongs to, if its metadata names one."""
    user = state.metadata.get(USER_ID)
    return user if isinstance(user, str) else None


def is_of_another_user(state: State, end_user: str | None) -> bool:
    """Whether the session belongs to an end user of its owner, and `end_user` is another one."""
    return end_user is not None and state.metadata.get(USER_ID, end_user) != end_user


def may_access(owner: str | None, caller: Caller) -> bool:
    """Whether `caller` may see a session of `owner`. Sessions created while the service had no keys are open to all."""
    return caller.any_owner or caller.is_service or owner is None or caller.owner == owner


KeyedEvent = TypeVar(
    "KeyedEvent",
    SessionCreated,
    SessionAccessed,
    MessagePosted,
    ReplyRequested,
    ReplyCancelled,
    ToolCallsClosed,
    BranchSelected,
)


def with_idempotency_key(event: KeyedEvent, idempotency_key: IdempotencyKey | None) -> KeyedEvent:
    """`event` with the key by which a repetition of its request is recognised."""
    return (
        event
        if idempotency_key is None
        else replace(event, idempotency_key=idempotency_key.key, fingerprint=idempotency_key.fingerprint)
    )


def find_busy_refusal(session: facts.Session, on_busy: str, rules: Rules) -> rejections.Rejection | None:
    """Why a request for a reply is refused while others run or wait; None: it is to start, or to wait for them."""
    if not session.is_busy:
        return None
    if on_busy == "reject":
        return rejections.SessionBusy("a reply is running in this session")
    if len(session.pending) >= rules.pending_max:
        return rejections.TooManyPending(f"{rules.pending_max} messages wait for a reply already")
    return None


def superseded_calls(state: State, message: ContextMessage) -> tuple[ToolCallsClosed, ...]:
    """What to record before the reply to `message` starts: the calls of the reply that it follows get no results."""
    parent = state.recent.get(message.parent_id) if message.parent_id is not None else None
    if parent is None or parent.calls != OPEN or message.role == "tool":
        return ()
    return (close_calls(parent, "superseded"),)


def close_calls(reply: ContextMessage, reason: str) -> ToolCallsClosed:
    return ToolCallsClosed(reply.message_id, call_ids_of(reply.parts), reason)


def merge_parameters(*parameters: Parameters, without_stop: bool = False, tokens_max: int | None = None) -> Parameters:
    """Each parameter from the first of `parameters` that sets it. `without_stop`: the first sets an empty list.

    `tokens_max` bounds max_new_tokens: settings and earlier turns may be older than the operator's limit.
    """
    found: dict[str, Any] = {}
    for one in reversed(parameters):
        if one is not UNNAMED and one != UNNAMED:  # most have no parameters of their own
            found |= _named_values(one)
    if without_stop:
        found["stop"] = ()
    if tokens_max is not None and "max_new_tokens" in found:
        found["max_new_tokens"] = min(found["max_new_tokens"], tokens_max)
    return _interned(Parameters(**found))


def _named_values(parameters: Parameters) -> dict[str, Any]:
    """The parameters that are set, by name. None of them is None or (), which stand for those that are not."""
    values = zip(Parameters.__struct_fields__, astuple(parameters), strict=True)
    return {name: value for name, value in values if value is not None and value != ()}


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
