"""decide(state, command, now) -> events, or a rejection. Pure: no await, clock, randomness or I/O.

A Decision may carry events and a rejection at once: a command that finds its session past its deadline records
the expiry and is refused.
"""

from typing import Any

from msgspec import UNSET, Struct
from msgspec.json import encode

from chatbot.sessions import errors
from chatbot.sessions.commands import (
    Asker,
    CancelReply,
    ChangeMetadata,
    CheckpointReply,
    Command,
    CreateSession,
    DeleteSession,
    EndReply,
    Expire,
    InterruptReplies,
    PostMessage,
    StartReply,
    Stop,
    Touch,
)
from chatbot.sessions.context import context_of
from chatbot.sessions.state import Remembered, State
from events.catalogue import (
    Event,
    MessagePosted,
    MetadataChanged,
    Parameters,
    ReplyProgressed,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
)


class Rules(Struct, frozen=True):
    """Settings that decisions depend on. Times in microseconds."""

    node: str
    provider: str
    model: str
    max_context_messages: int
    pending_max: int
    access_resolution_us: int
    auth: bool = False


class Decision(Struct, frozen=True):
    """What to record, and why the asker is refused, if it is."""

    events: tuple[Event, ...] = ()
    rejection: errors.Rejection | None = None


def decide(state: State | None, command: Command, now_us: int, rules: Rules, asker: Asker, session_id: str) -> Decision:
    """What the session answers to `command` at `now_us` (unix microseconds)."""
    if isinstance(command, CreateSession):
        return Decision(events=(_create(command),))
    gone = _gone(state, command, rules, asker, session_id)
    if state is None or gone is not None:
        return Decision(rejection=gone or errors.SessionNotFound(session_id))
    if _is_due(state, now_us) and not isinstance(command, DeleteSession):
        refused = None if isinstance(command, Expire) else errors.SessionExpired(session_id)
        return Decision(events=(SessionExpired(deadline_us=state.session.expires_at_us),), rejection=refused)
    match command:
        case PostMessage():
            return _post(state, command, rules)
        case StartReply():
            return _start_next(state, command, rules)
        case CheckpointReply() | EndReply():
            return _reply_went_on(state, command)
        case ChangeMetadata():
            return _change(state, command)
        case Touch():
            stale = now_us - state.session.accessed_at_us >= rules.access_resolution_us
            return Decision(events=(SessionAccessed(),) if stale else ())
        case DeleteSession():
            gone_for_good = SessionDeleted(reason=command.reason, owner=state.session.owner, usage=command.usage)
            return Decision(events=(gone_for_good,))
        case CancelReply() | InterruptReplies() | Expire() | Stop():
            return Decision()  # ending replies is the actor's, who holds their tasks; the expiry was not due


def may_touch(owner: str | None, rules: Rules, asker: Asker) -> bool:
    """Whether `asker` may see a session of `owner`. A session made while the service had no keys is open to each."""
    return not rules.auth or asker.is_service or owner is None or asker.owner == owner


def plan_reply(state: State, message: Remembered, reply_id: str, parameters: Parameters, rules: Rules) -> ReplyStarted:
    """The reply_started that answers `message`.

    Raises LookupError when the branch has a gap in `state.recent`: fill it first.
    """
    context = context_of({**state.recent, message.message_id: message}, message.message_id, rules.max_context_messages)
    if context is None:
        raise LookupError(f"the branch of message {message.message_id} is not at hand")
    return ReplyStarted(
        reply_id=reply_id,
        parent_id=message.message_id,
        node=rules.node,
        provider=rules.provider,
        model=parameters.model or rules.model,
        parameters=parameters,
        context_ids=tuple(said.message_id for said in context),
    )


def parent_of(state: State, command: PostMessage) -> str | None:
    """The message that a posted one follows."""
    return state.session.head if command.parent_id is UNSET else command.parent_id


def _create(command: CreateSession) -> SessionCreated:
    return SessionCreated(
        owner=command.owner,
        metadata=command.metadata,
        timeout_s=command.timeout_s,
        title=command.title,
        system_prompt=command.system_prompt,
    )


def _gone(
    state: State | None, command: Command, rules: Rules, asker: Asker, session_id: str
) -> errors.Rejection | None:
    """Why there is nothing to ask any more. An expired session can still be deleted: its texts are still there."""
    if state is None or not may_touch(state.session.owner, rules, asker):
        return errors.SessionNotFound(session_id)
    if state.session.status == "deleted":
        return errors.SessionDeleted(session_id)
    if state.session.status == "expired" and not isinstance(command, DeleteSession):
        return errors.SessionExpired(session_id)
    return None


def _is_due(state: State, now_us: int) -> bool:
    session = state.session
    return now_us >= session.expires_at_us and session.open_reply is None and not session.pending


def _post(state: State, command: PostMessage, rules: Rules) -> Decision:
    session = state.session
    is_busy = session.open_reply is not None or bool(session.pending)
    if is_busy and command.on_busy == "reject":
        return Decision(rejection=errors.SessionBusy("a reply is running in this session"))
    if len(session.pending) >= rules.pending_max:
        return Decision(rejection=errors.TooManyPending(f"{rules.pending_max} messages wait for a reply already"))
    parent_id = parent_of(state, command)
    posted = MessagePosted(
        message_id=command.message_id,
        parent_id=parent_id,
        role="user",
        content=command.content,
        reply_id=command.reply_id,
        parameters=command.parameters,
    )
    if is_busy:
        return Decision(events=(posted,))
    message = Remembered(command.message_id, parent_id, "user", command.content)
    return Decision(events=(posted, plan_reply(state, message, command.reply_id, command.parameters, rules)))


def _start_next(state: State, command: StartReply, rules: Rules) -> Decision:
    if state.session.open_reply is not None or not state.session.pending:
        return Decision()
    waiting = state.session.pending[0]
    message = state.recent[waiting.message_id]
    return Decision(events=(plan_reply(state, message, waiting.reply_id, command.parameters, rules),))


def _reply_went_on(state: State, command: CheckpointReply | EndReply) -> Decision:
    """A reply that has ended already stays as it ended."""
    reply_id = command.event.reply_id if isinstance(command, EndReply) else command.reply_id
    running = state.session.open_reply
    is_open = running is not None and running.reply_id == reply_id
    if isinstance(command, CheckpointReply):
        if not is_open:
            return Decision()
        return Decision(events=(ReplyProgressed(reply_id=reply_id, offset=command.offset, text=command.text),))
    is_pending = any(waiting.reply_id == reply_id for waiting in state.session.pending)
    return Decision(events=(command.event,)) if is_open or is_pending else Decision()


def _change(state: State, command: ChangeMetadata) -> Decision:
    metadata: dict[str, Any] = dict(state.metadata)
    if command.metadata is not UNSET:
        metadata.update(command.metadata)
        metadata = {key: value for key, value in metadata.items() if value is not None}
    title = state.title if command.title is UNSET else command.title
    if len(metadata) > command.metadata_keys_max or len(encode(metadata)) > command.metadata_max_bytes:
        return Decision(rejection=errors.TooLarge("the merged metadata would be larger than is allowed"))
    if metadata == state.metadata and title == state.title:
        return Decision()
    return Decision(events=(MetadataChanged(metadata=metadata, title=title),))
