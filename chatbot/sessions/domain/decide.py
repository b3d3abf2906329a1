"""decide(state, command, now) -> events, or a rejection. Pure: no await, clock, randomness or I/O.

A Decision may carry events and a rejection at once: a command that finds its session past its deadline records
the expiry and is refused.
"""

from typing import Any, TypeVar

from msgspec import UNSET, Struct
from msgspec.json import encode
from msgspec.structs import replace

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    BeginErasure,
    Caller,
    CancelReply,
    CatchUp,
    ChangeMetadata,
    CheckpointReply,
    CloseOrphans,
    Command,
    CopyTexts,
    CreateSession,
    DeleteSession,
    EndReply,
    Expire,
    Fork,
    IdempotencyKey,
    InterruptReplies,
    PostMessage,
    RecordAccess,
    Regenerate,
    RequeueReplies,
    SelectBranch,
    StartReply,
    Stop,
)
from chatbot.sessions.domain.reply_settings import changed_settings, merge_parameters
from chatbot.sessions.domain.state import ContextMessage, State, Unanswered, select_context
from events.catalogue import (
    BranchSelected,
    Event,
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
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
)


class Rules(Struct, frozen=True):
    """Settings that decisions depend on. Times in microseconds.

    `models`: the names that are configured or offered: figures hold no other one that a client chose.
    `is_shared`: other nodes append, too, so what this one owes is recorded under its name.
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

    @property
    def owner_node(self) -> str | None:
        """Who is recorded as owing a reply that waits: needless where nobody else could."""
        return self.node if self.is_shared else None


class Decision(Struct, frozen=True):
    """What to record, and why the asker is refused, if it is."""

    events: tuple[Event, ...] = ()
    rejection: rejections.Rejection | None = None


def decide(  # noqa: PLR0911, PLR0912  one arm for each command
    state: State | None, command: Command, now_us: int, rules: Rules, caller: Caller, session_id: str
) -> Decision:
    """What the session answers to `command` at `now_us` (unix microseconds)."""
    if isinstance(command, CreateSession) and state is None:
        return Decision(events=(_created_event(command),))
    refused = find_refusal(state, command, rules, caller, session_id)
    if state is None or refused is not None:
        return Decision(rejection=refused or rejections.SessionNotFound(session_id))
    if is_due(state, now_us) and not isinstance(command, DeleteSession | BeginErasure | CopyTexts):
        refused = _key_consumed() if isinstance(command, CreateSession) else rejections.SessionExpired(session_id)
        refused = None if isinstance(command, Expire) else refused
        return Decision(events=(SessionExpired(deadline_us=state.session.expires_at_us),), rejection=refused)
    match command:
        case PostMessage() | Regenerate():
            return _request_reply(state, command, rules)
        case SelectBranch():
            return _select_branch(state, command)
        case StartReply():
            return _start_next_reply(state, command, rules)
        case CheckpointReply() | EndReply():
            return _record_reply_progress(state, command, rules)
        case ChangeMetadata():
            return _change_metadata(state, command)
        case RecordAccess():
            stale = command.noted or now_us - state.session.accessed_at_us >= rules.access_resolution_us
            return Decision(events=(SessionAccessed(),) if stale else ())
        case CancelReply(idempotency_key=IdempotencyKey()) if not _has_reply_to_cancel(state, command):
            return Decision(events=(with_idempotency_key(SessionAccessed(), command.idempotency_key),))
        case CopyTexts() | RequeueReplies():
            return Decision(events=command.events)
        case CreateSession():  # its id was made from the same Idempotency-Key, by another request
            return Decision(rejection=rejections.KeyReused("this Idempotency-Key has made a session already"))
        case DeleteSession():
            deleted_event = SessionDeleted(reason=command.reason, owner=state.session.owner, usage=command.usage)
            return Decision(events=(deleted_event,))
        case BeginErasure():
            erasure_begun = SessionExpired(deadline_us=now_us, erase_reason=command.reason, node=rules.owner_node)
            return Decision(events=(erasure_begun,) if state.session.erasure is None else ())
        case CancelReply() | InterruptReplies() | Expire() | Stop() | Fork() | CatchUp() | CloseOrphans():
            # Ending replies is the actor's, who holds their tasks; the expiry was not due; a fork is another stream.
            return Decision()


def may_access(owner: str | None, rules: Rules, caller: Caller) -> bool:
    """Whether `asker` may see a session of `owner`. A session made while the service had no keys is open to each."""
    return not rules.auth or caller.is_service or owner is None or caller.owner == owner


def plan_reply(state: State, message: ContextMessage, asked: ReplyRequested, rules: Rules) -> ReplyStarted:
    """The reply_started that answers `message` as `asked`.

    Raises LookupError when the branch has a gap in `state.recent`: fill it first.
    """
    recent = {**state.recent, message.message_id: message}
    context = select_context(recent, message.message_id, rules.max_context_messages, rules.unanswered)
    if context is None:
        raise LookupError(f"the branch of message {message.message_id} is not at hand")
    named = asked.parameters.model
    return ReplyStarted(
        reply_id=asked.reply_id,
        parent_id=message.message_id,
        node=rules.node,
        provider=rules.provider,
        model=asked.parameters.model or rules.model,
        parameters=asked.parameters,
        context_ids=tuple(said.message_id for said in context),
        attempt=asked.attempt,
        joined=rules.unanswered == "join",
        counted_as=named if named in rules.models else None,
    )


def parent_of(state: State, command: PostMessage) -> str | None:
    """The message that a posted one follows."""
    return state.session.head if command.parent_id is UNSET else command.parent_id


KeyedEvent = TypeVar(
    "KeyedEvent", SessionCreated, SessionAccessed, MessagePosted, ReplyRequested, ReplyCancelled, BranchSelected
)


def with_idempotency_key(event: KeyedEvent, idempotency_key: IdempotencyKey | None) -> KeyedEvent:
    """`event`, by which its request will be known again."""
    return (
        event
        if idempotency_key is None
        else replace(event, idempotency_key=idempotency_key.key, fingerprint=idempotency_key.fingerprint)
    )


def _created_event(command: CreateSession) -> SessionCreated:
    created = SessionCreated(
        owner=command.owner,
        metadata=command.metadata,
        timeout_s=command.timeout_s,
        title=command.title,
        system_prompt=command.system_prompt,
        parameters=command.parameters,
    )
    return with_idempotency_key(created, command.idempotency_key)


def find_refusal(
    state: State | None, command: Command, rules: Rules, caller: Caller, session_id: str
) -> rejections.Rejection | None:
    """Why there is nothing to ask any more.

    An expired session can still be deleted, for its texts are still there, and keeps what its origin is to lose.
    """
    if state is None or not may_access(state.session.owner, rules, caller):
        return rejections.SessionNotFound(session_id)
    if state.session.status != "active" and isinstance(command, CreateSession):
        return _key_consumed()
    if state.session.status == "deleted":
        return rejections.SessionDeleted(session_id)
    if state.session.status == "expired" and not isinstance(command, DeleteSession | BeginErasure | CopyTexts):
        refusal = rejections.SessionExpired if state.session.erasure is None else rejections.SessionDeleted
        return refusal(session_id)
    return None


def _key_consumed() -> rejections.KeyConsumed:
    return rejections.KeyConsumed("the session that this Idempotency-Key made is gone: use a new key")


def is_due(state: State, now_us: int) -> bool:
    """Whether the session's time is up, as far as its own state tells."""
    session = state.session
    return now_us >= session.expires_at_us and session.open_reply is None and not session.pending


def _request_reply(state: State, command: PostMessage | Regenerate, rules: Rules) -> Decision:
    """A message that wants a reply, or another reply to one that has some."""
    session = state.session
    is_busy = session.open_reply is not None or bool(session.pending)
    if is_busy and command.on_busy == "reject":
        return Decision(rejection=rejections.SessionBusy("a reply is running in this session"))
    if is_busy and len(session.pending) >= rules.pending_max:
        return Decision(rejection=rejections.TooManyPending(f"{rules.pending_max} messages wait for a reply already"))
    asked: Event
    turn = command.turn if isinstance(command, Regenerate) else Parameters()
    fallbacks = (turn, state.settings.parameters, rules.defaults)
    parameters = merge_parameters(
        command.parameters, *fallbacks, without_stop=command.without_stop, tokens_max=rules.tokens_max
    )
    command = replace(command, parameters=parameters)
    if isinstance(command, PostMessage):
        asked = _posted_event(command, parent_of(state, command), rules)
        message = ContextMessage(asked.message_id, asked.parent_id, asked.role, asked.content)
    else:
        message = state.recent[command.message_id or ""]
        asked = ReplyRequested(command.reply_id, message.message_id, command.parameters, node=rules.owner_node)
        asked = with_idempotency_key(asked, command.idempotency_key)
    if is_busy:
        return Decision(events=(asked,))
    request = ReplyRequested(command.reply_id, message.message_id, command.parameters)
    return Decision(events=(asked, plan_reply(state, message, request, rules)))


def _posted_event(command: PostMessage, parent_id: str | None, rules: Rules) -> MessagePosted:
    posted = MessagePosted(
        message_id=command.message_id,
        parent_id=parent_id,
        role="user",
        content=command.content,
        reply_id=command.reply_id,
        parameters=command.parameters,
        node=rules.owner_node,
    )
    return with_idempotency_key(posted, command.idempotency_key)


def _has_reply_to_cancel(state: State, command: CancelReply) -> bool:
    running, wanted = state.session.open_reply, command.reply_id
    is_running = running is not None and wanted in (None, running.reply_id)
    return is_running or any(waiting.reply_id == wanted for waiting in state.session.pending)


def _select_branch(state: State, command: SelectBranch) -> Decision:
    """Selecting what is selected already changes nothing, but is remembered where it must be known again."""
    if command.message_id == state.session.head and command.idempotency_key is None:
        return Decision()
    return Decision(events=(with_idempotency_key(BranchSelected(command.message_id), command.idempotency_key),))


def _start_next_reply(state: State, command: StartReply, rules: Rules) -> Decision:
    if state.session.open_reply is not None or not state.session.pending:
        return Decision()
    waiting = state.session.pending[0]
    if command.reply_id not in (None, waiting.reply_id):
        return Decision()
    message = state.recent[waiting.message_id]
    request = ReplyRequested(waiting.reply_id, waiting.message_id, command.parameters, waiting.attempt)
    return Decision(events=(plan_reply(state, message, request, rules),))


def _record_reply_progress(state: State, command: CheckpointReply | EndReply, rules: Rules) -> Decision:
    """A reply that has ended already stays as it ended."""
    reply_id = command.event.reply_id if isinstance(command, EndReply) else command.reply_id
    running = state.session.open_reply
    is_open = running is not None and running.reply_id == reply_id
    if isinstance(command, CheckpointReply):
        if not is_open:
            return Decision()
        return Decision(events=(ReplyProgressed(reply_id=reply_id, offset=command.offset, text=command.text),))
    # What waits has no text: only the session itself ends it. A late word of an attempt that is over is not heard.
    is_pending = any(waiting.reply_id == reply_id for waiting in state.session.pending)
    ends_early = isinstance(command.event, ReplyCancelled | ReplyInterrupted)
    if not (is_open or (is_pending and ends_early)):
        return Decision()
    event: ReplyEnded = command.event
    names_model = running is not None and running.names_model
    if isinstance(event, ReplyCompleted | ReplyFailed) and event.model in rules.models and not names_model:
        event = replace(event, counted_as=event.model)
    return Decision(events=(event,) if command.again is None else (event, command.again))


def _change_metadata(state: State, command: ChangeMetadata) -> Decision:
    metadata: dict[str, Any] = dict(state.metadata)
    if command.metadata is not UNSET:
        metadata.update(command.metadata)
        metadata = {key: value for key, value in metadata.items() if value is not None}
    title = state.title if command.title is UNSET else command.title
    if len(metadata) > command.metadata_keys_max or len(encode(metadata)) > command.metadata_max_bytes:
        return Decision(rejection=rejections.TooLarge("the merged metadata would be larger than is allowed"))
    settings = changed_settings(state.settings, command.system_prompt, command.parameters)
    if (metadata, title, settings) == (state.metadata, state.title, state.settings):
        return Decision()
    recorded_settings = None if settings == state.created else settings
    return Decision(events=(MetadataChanged(metadata=metadata, title=title, settings=recorded_settings),))
