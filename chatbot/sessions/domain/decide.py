"""The decisions of a session's aggregate: decide(state, command, now) -> events, or a rejection.

Pure: no await, clock, randomness or I/O. A Decision may have both events and a rejection: a command that finds its
session past its deadline records the expiry and is refused.
"""

from typing import Any

from msgspec import UNSET
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
    Decision,
    DeleteSession,
    EndReply,
    Expire,
    Fork,
    IdempotencyKey,
    InterruptReplies,
    MarkRead,
    PostMessage,
    PostTranscript,
    RecordAccess,
    RecordView,
    RedactMessage,
    Regenerate,
    RequeueReplies,
    SelectBranch,
    StartReply,
    Stop,
    WithdrawMessage,
)
from chatbot.sessions.domain.model_request import plan_reply, plan_whole_reply
from chatbot.sessions.domain.state import (
    Rules,
    State,
    changed_settings,
    close_calls,
    context_message,
    find_busy_refusal,
    is_of_another_user,
    may_access,
    merge_parameters,
    superseded_calls,
    with_idempotency_key,
)
from chatbot.sessions.domain.transcript_posting import created_event, post_transcript
from events.catalogue import (
    BranchSelected,
    Event,
    MessagePosted,
    MessageWithdrawn,
    MetadataChanged,
    Parameters,
    ReplyCancelled,
    ReplyEnded,
    ReplyInterrupted,
    ReplyRequested,
    SessionAccessed,
    SessionDeleted,
    SessionExpired,
    SessionRead,
    SessionViewed,
    ToolCallsClosed,
)
from events.schema.naming import CONVERSATION
from projections.folds.message import OPEN

_WHILE_EXPIRED = (DeleteSession, BeginErasure, CopyTexts, RedactMessage, RecordView)
_FORBIDDEN_BY_HOLD = (DeleteSession, RedactMessage)
RETENTION = "retention"  # the recorded reason of erasures after a time


def decide(  # noqa: PLR0911, PLR0912  one arm for each command
    state: State | None, command: Command, now_us: int, rules: Rules, caller: Caller, session_id: str
) -> Decision:
    """The session's decision on `command` at `now_us` (unix microseconds). Raises BranchNotLoaded."""
    if state is None and isinstance(command, CreateSession):
        return Decision(events=(with_idempotency_key(created_event(command), command.idempotency_key),))
    if state is None and isinstance(command, PostTranscript) and command.create is not None:
        return post_transcript(None, command, rules)
    refused = authorise(state, command, now_us, rules, caller, session_id)
    if refused is not None:
        return refused
    if state is None:
        return Decision(rejection=rejections.SessionNotFound(session_id))
    match command:  # the most frequent first: a pattern that does not match costs as much as three function calls
        case PostMessage() | Regenerate():
            return _request_reply(state, command, rules)
        case EndReply():
            return _end_reply(state, command, rules)
        case CheckpointReply():
            is_written = _is_written(state, command.reply_id, command.started)
            return Decision(events=command.events if is_written else ())
        case PostTranscript():
            return post_transcript(state, command, rules)
        case WithdrawMessage():
            return _withdraw_message(state, command)
        case SelectBranch():
            return _select_branch(state, command)
        case StartReply():
            return _start_next_reply(state, command, rules)
        case ChangeMetadata():
            return _change_metadata(state, command)
        case RecordAccess():
            stale = command.always or now_us - state.session.accessed_at_us >= rules.access_resolution_us
            return Decision(events=(SessionAccessed(),) if stale else ())
        case RecordView():
            return Decision(events=(SessionViewed(command.what),))
        case MarkRead():
            return _mark_read(state, command)
        case CancelReply() if not _has_reply_to_cancel(state, command):
            return _cancel_calls(state, command)
        case CopyTexts():
            return Decision(events=command.events)
        case RequeueReplies():  # another process may have requested them meanwhile
            session = state.session
            waiting = {one.reply_id for one in session.pending}
            waiting |= {session.open_reply.reply_id} if session.open_reply is not None else set()
            return Decision(events=tuple(one for one in command.events if one.reply_id not in waiting))
        case CreateSession():  # another request with the same Idempotency-Key, from which the id is computed
            return Decision(rejection=rejections.KeyReused("this Idempotency-Key has made a session already"))
        case DeleteSession():
            session = state.session
            explained = (command.reason_code, command.ticket)
            kept = (session.owner, command.usage, session.kind)
            return Decision(events=(SessionDeleted(command.reason, *kept, *explained),))
        case RedactMessage():
            return _redact_message(state, command)
        case BeginErasure():
            node, explained = rules.owner_node, (command.reason_code, command.ticket)
            erasure_begun = SessionExpired(now_us, command.reason, node, *explained)
            return Decision(events=(erasure_begun,) if state.session.erasure is None else ())
        case CancelReply() | InterruptReplies() | Expire() | Stop() | Fork() | CatchUp() | CloseOrphans():
            # The actor ends replies, as it has their tasks; the expiry was not due; a fork is another stream.
            return Decision()


def authorise(
    state: State | None, command: Command, now_us: int, rules: Rules, caller: Caller, session_id: str
) -> Decision | None:
    """None if `caller` may give `command` to the session now, else the decision that refuses it.

    That decision records the expiry if it is due; `Expire` itself is then not refused.
    """
    refused = find_refusal(state, command, caller, session_id)
    if state is None or refused is not None:
        return Decision(rejection=refused)
    if not is_due(state, now_us) or isinstance(command, _WHILE_EXPIRED):
        return None
    if isinstance(command, CreateSession):
        refused = _key_consumed()
    elif not isinstance(command, Expire):
        refused = rejections.SessionExpired(session_id)
    return Decision(events=(_expired_event(state, rules),), rejection=refused)


def _expired_event(state: State, rules: Rules) -> SessionExpired:
    """A conversation's content is kept until a retention setting or a client erases it, any other session's is not."""
    deadline_us = state.session.expires_at_us
    if state.session.kind == CONVERSATION:
        return SessionExpired(deadline_us)
    return SessionExpired(deadline_us, RETENTION, rules.owner_node)


def parent_of(state: State, command: PostMessage) -> str | None:
    """The id of the message that a posted message follows."""
    return state.session.head if command.parent_id is UNSET else command.parent_id


def find_refusal(state: State | None, command: Command, caller: Caller, session_id: str) -> rejections.Rejection | None:
    """Why the session takes no command from this caller any more; None if it does.

    An expired session can still be deleted, and its messages redacted, as its texts are still there, and can still copy
    texts of its origin.
    """
    if state is None or not may_access(state.session.owner, caller):
        return rejections.SessionNotFound(session_id)
    if isinstance(command, PostTranscript) and is_of_another_user(state, command.end_user):
        return rejections.SessionNotFound(session_id)
    if state.session.status != "active" and isinstance(command, CreateSession):
        return _key_consumed()
    if state.session.status == "deleted":
        return rejections.SessionDeleted(session_id)
    if state.session.erasure is not None and isinstance(command, RedactMessage):
        return rejections.SessionDeleted(session_id)
    if state.session.status == "expired" and not isinstance(command, _WHILE_EXPIRED):
        refusal = rejections.SessionExpired if state.session.erasure is None else rejections.SessionDeleted
        return refusal(session_id)
    if isinstance(command, _FORBIDDEN_BY_HOLD) and command.hold is not None:
        return rejections.SessionHeld(session_id, command.hold.hold_id, command.hold.reason)
    return None


def _key_consumed() -> rejections.KeyConsumed:
    return rejections.KeyConsumed("the session that this Idempotency-Key made is gone: use a new key")


def is_due(state: State, now_us: int) -> bool:
    """Whether the session's deadline is past, by its own state: open replies postpone it."""
    session = state.session
    return session.open_reply is None and not session.pending and now_us >= session.expires_at_us


def _request_reply(state: State, command: PostMessage | Regenerate, rules: Rules) -> Decision:
    """A message with its reply, or another reply to an earlier message."""
    refused = find_busy_refusal(state.session, command.on_busy, rules)
    if refused is not None:
        return Decision(rejection=refused)
    parameters = requested_parameters(state, command, rules) if command.requested is None else command.requested
    request_event: Event
    if isinstance(command, PostMessage):
        request_event = _posted_event(command, parameters, parent_of(state, command), rules)
        message = context_message(state, request_event)
    else:
        message = state.recent[command.message_id or ""]
        request_event = ReplyRequested(command.reply_id, message.message_id, parameters, node=rules.owner_node)
        request_event = with_idempotency_key(request_event, command.idempotency_key)
    if state.session.is_busy:
        return Decision(events=(request_event,))
    closed = superseded_calls(state, message)
    if closed and command.on_busy == "reject":
        return Decision(rejection=rejections.CallsOpen(closed[0].reply_id, closed[0].call_ids))
    request = ReplyRequested(command.reply_id, message.message_id, parameters)
    if command.branch is not None:
        branch = command.branch if isinstance(command, Regenerate) else (*command.branch, message)
        planned = plan_whole_reply(branch, request, rules)
    else:
        planned = plan_reply(state, message, request, rules, command.context_tokens)
    return Decision(events=(*closed, request_event, planned.started), messages=planned.messages)


def requested_parameters(state: State, command: PostMessage | Regenerate, rules: Rules) -> Parameters:
    """What the reply is asked for with: as the request says, else as its turn, the session or the service does."""
    fallbacks = (command.turn, state.settings.parameters, rules.defaults)
    merged = merge_parameters(
        command.parameters, *fallbacks, without_stop=command.without_stop, tokens_max=rules.tokens_max
    )
    if isinstance(command, Regenerate) and command.without_tools:
        return replace(merged, tools=None, tool_choice=None, parallel_tool_calls=None)
    return merged


def _posted_event(command: PostMessage, parameters: Parameters, parent_id: str | None, rules: Rules) -> MessagePosted:
    posted = MessagePosted(
        message_id=command.message_id,
        parent_id=parent_id,
        role=command.role,
        content=command.content,
        reply_id=command.reply_id,
        parameters=parameters,
        node=rules.owner_node,
        parts=command.parts,
    )
    return with_idempotency_key(posted, command.idempotency_key)


def _has_reply_to_cancel(state: State, command: CancelReply) -> bool:
    open_reply, wanted = state.session.open_reply, command.reply_id
    is_running = open_reply is not None and wanted in (None, open_reply.reply_id)
    return is_running or any(pending.reply_id == wanted for pending in state.session.pending)


def _calls_to_cancel(state: State, command: CancelReply) -> ToolCallsClosed | None:
    """The open calls of the reply that a client's command names, or of the newest one; None if there are none."""
    reply = state.recent.get(command.reply_id or state.session.head or "")
    if reply is None or reply.calls != OPEN or command.cause != "client":
        return None
    return close_calls(reply, "cancelled")


def _cancel_calls(state: State, command: CancelReply) -> Decision:
    """No reply runs that could be cancelled: close open tool calls. A request with a key is recorded in any case."""
    closed = _calls_to_cancel(state, command)
    if closed is not None:
        return Decision(events=(with_idempotency_key(closed, command.idempotency_key),))
    if command.idempotency_key is not None:
        return Decision(events=(with_idempotency_key(SessionAccessed(), command.idempotency_key),))
    return Decision()


def _select_branch(state: State, command: SelectBranch) -> Decision:
    """Selecting the selected branch changes nothing, but is recorded if it has an idempotency key."""
    if command.message_id == state.session.head and command.idempotency_key is None:
        return Decision()
    return Decision(events=(with_idempotency_key(BranchSelected(command.message_id), command.idempotency_key),))


def _start_next_reply(state: State, command: StartReply, rules: Rules) -> Decision:
    if state.session.open_reply is not None or not state.session.pending:
        return Decision()
    pending = state.session.pending[0]
    if command.reply_id not in (None, pending.reply_id):
        return Decision()
    request = ReplyRequested(pending.reply_id, pending.message_id, command.parameters, pending.attempt)
    if command.branch is not None:
        planned = plan_whole_reply(command.branch, request, rules)
        return Decision(events=(planned.started,), messages=planned.messages)
    message = state.recent[pending.message_id]
    planned = plan_reply(state, message, request, rules, command.context_tokens)
    return Decision(events=(*superseded_calls(state, message), planned.started), messages=planned.messages)


def _is_written(state: State, reply_id: str, started: int | None) -> bool:
    """Whether the reply is being written, in the attempt that is meant."""
    open_reply = state.session.open_reply
    return open_reply is not None and open_reply.reply_id == reply_id and started in (None, open_reply.version)


def _end_reply(state: State, command: EndReply, rules: Rules) -> Decision:
    """Nothing is recorded for a reply that has ended already, or whose next attempt has begun."""
    event: ReplyEnded = command.event
    if not _is_written(state, event.reply_id, command.started):
        if not _is_ended_early(state, event, command.started):
            return Decision()
        event = replace(event, content="", parts=())
    open_reply = state.session.open_reply
    names_model = open_reply is not None and open_reply.names_model
    if not names_model and event.model in rules.models:
        event = replace(event, counted_as=event.model)
    return Decision(events=(event,) if command.again is None else (event, command.again))


def _is_ended_early(state: State, event: ReplyEnded, started: int | None) -> bool:
    """Whether `event` ends a reply of which no attempt is written that is meant. A queued reply has no text: only the
    session ends it. A late end of an earlier attempt is ignored, but not a cancel: it ends the reply as it is now,
    without the earlier attempt's text.
    """
    waits = any(pending.reply_id == event.reply_id for pending in state.session.pending)
    if isinstance(event, ReplyInterrupted):
        return waits and started is None
    return isinstance(event, ReplyCancelled) and (waits or _is_written(state, event.reply_id, None))


def _change_metadata(state: State, command: ChangeMetadata) -> Decision:
    metadata: dict[str, Any] = dict(state.metadata)
    if command.metadata is not UNSET:
        metadata.update(command.metadata)
        metadata = {key: value for key, value in metadata.items() if value is not None}
    title = state.title if command.title is UNSET else command.title
    if len(metadata) > command.metadata_keys_max or len(encode(metadata)) > command.metadata_max_bytes:
        return Decision(rejection=rejections.TooLarge("the merged metadata would be larger than is allowed"))
    settings = changed_settings(state.settings, command.system_prompt, command.parameters)
    pinned = state.session.pinned if command.pinned is UNSET else command.pinned
    if (metadata, title, settings, pinned) == (state.metadata, state.title, state.settings, state.session.pinned):
        return Decision()
    recorded_settings = None if settings == state.created else settings
    return Decision(events=(MetadataChanged(metadata, title, recorded_settings, pinned),))


def _withdraw_message(state: State, command: WithdrawMessage) -> Decision:
    """A reply that has started before, or a message that has more replies, is a part of the conversation."""
    pending = [one for one in state.session.pending if one.message_id == command.message_id and one.attempt == 1]
    if command.role != "user" or not pending or (pending[0].reply_id,) != command.reply_ids:
        return Decision(rejection=rejections.NotQueued())
    return Decision(events=(MessageWithdrawn(command.message_id, pending[0].reply_id, command.parent_id),))


def _redact_message(state: State, command: RedactMessage) -> Decision:
    """Not while a reply runs or waits: its request to the model has the text, and may be sent once more."""
    if state.session.is_busy:
        return Decision(rejection=rejections.SessionBusy("a reply is running in this session: cancel it first"))
    return Decision(events=() if command.event is None or command.checks_only else (command.event,))


def _mark_read(state: State, command: MarkRead) -> Decision:
    """Nothing is recorded where nothing becomes read."""
    unread_at, version = state.session.unread_at, state.session.version
    read_at = version if command.version is None else min(command.version, version)
    return Decision(events=(SessionRead(read_at),) if unread_at and read_at >= unread_at else ())


def idempotency_key_of(command: Command) -> IdempotencyKey | None:
    idempotency_key: IdempotencyKey | None = getattr(command, "idempotency_key", None)
    return idempotency_key
