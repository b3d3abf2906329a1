"""The commands of a session: imperative, may be rejected; and what a decision on one is. Ids come from outside, so that
decisions stay pure.
"""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.context import ContextMessage
from chatbot.sessions.domain.transcript import Transcript
from events.catalogue import (
    ConversationName,
    Event,
    MessageCopied,
    MessageRedacted,
    Parameters,
    ReplyEnded,
    ReplyProgressed,
    ReplyRequested,
    UsageTotal,
)
from events.schema.hold_events import Hold
from events.schema.naming import CONVERSATION
from events.schema.parameters import UNNAMED
from events.schema.parts import Parts

USER_ID = "user_id"  # the key of the end user in a session's metadata


class Caller(Struct, frozen=True):
    """The principal of a command. `owner` is the API key's name, None when the service runs without keys.

    `any_owner`: may reach sessions of any owner, as everyone where no key exists.
    """

    owner: str | None = None
    request_id: str | None = None
    is_service: bool = False
    any_owner: bool = False


SERVICE = Caller(is_service=True)


class IdempotencyKey(Struct, frozen=True):
    """The Idempotency-Key of a request that takes effect once, however often it is sent, and a hash of its content."""

    key: str
    fingerprint: str


class CreateSession(Struct, frozen=True):
    owner: str | None
    metadata: dict[str, Any]
    timeout_s: int
    title: str | None
    system_prompt: str | None
    idempotency_key: IdempotencyKey | None = None
    parameters: Parameters = Parameters()
    kind: str = CONVERSATION
    named_by: ConversationName | None = None


class PostMessage(Struct, frozen=True):
    """`parent_id`: unset = after the newest message of the selected branch, None = from the start.

    `on_busy`, while a reply runs: queue, reject, or interrupt (cancel the running and the queued replies). `stream`
    False: the caller waits for the whole reply. `parameters` are those that the request names, `without_stop` if it
    names an empty list of stops.

    `role` is user or tool: a tool's message has the results of all calls of the reply that it follows. `parts` are as
    in the event, so empty where they are one text; `content` is the text of the text parts. `turn`: the recorded
    parameters of that reply, which apply where the request names none. `requested`: what all of these, the session and
    the service come to, if that is known already. `context_tokens`: the size of the model's context, None where it is
    not known. `branch`: the messages of the branch that the message continues, root first, if the model is sent all of
    them.
    """

    message_id: str
    reply_id: str
    content: str
    parameters: Parameters
    parent_id: str | UnsetType | None = UNSET
    on_busy: str = "queue"
    stream: bool = True
    idempotency_key: IdempotencyKey | None = None
    without_stop: bool = False
    parts: Parts = ()
    role: str = "user"
    turn: Parameters = UNNAMED
    requested: Parameters | None = None
    context_tokens: int | None = None
    branch: tuple[ContextMessage, ...] | None = None


class Regenerate(Struct, frozen=True):
    """Another reply to the same message. `message_id`: a reply or the message that it answers; None: the newest reply.

    `turn`: the recorded parameters of that reply or message, which apply where the request names none;
    `without_tools`: but its tools do not. `requested`, `context_tokens` and `branch` as in PostMessage.
    """

    reply_id: str
    message_id: str | None
    parameters: Parameters
    on_busy: str = "queue"
    stream: bool = True
    idempotency_key: IdempotencyKey | None = None
    without_stop: bool = False
    without_tools: bool = False
    turn: Parameters = UNNAMED
    requested: Parameters | None = None
    context_tokens: int | None = None
    branch: tuple[ContextMessage, ...] | None = None


class PostTranscript(Struct, frozen=True):
    """A conversation as its client has it, of which the last message is to be answered.

    What the session has of it is found; the rest is recorded. `message_ids` are ids for all its messages, of which
    those of new ones are used. `create` makes the session if there is none; `is_new`: there is none. `imports_only`:
    only some of the messages that are new are recorded, because they are too many for one append. `known` are the
    session's own messages that the transcript begins with, root first. `end_user`: only a session of this user, or of
    none, is meant; None: of any. Otherwise as PostMessage.

    `is_matched` False: all of the transcript is new and continues the branch of `parent_id`, whose messages are `known`
    (unset: of the newest message of the selected branch; None: it begins at the root). `adds_only`: no reply is
    requested.
    """

    transcript: Transcript
    message_ids: tuple[str, ...]
    reply_id: str
    parameters: Parameters
    create: CreateSession | None = None
    is_new: bool = False
    imports_only: bool = False
    client_id: str | None = None
    reply_client_id: str | None = None
    on_busy: str = "queue"
    stream: bool = True
    idempotency_key: IdempotencyKey | None = None
    without_stop: bool = False
    known: tuple[ContextMessage, ...] = ()
    end_user: str | None = None
    is_matched: bool = True
    parent_id: str | UnsetType | None = UNSET
    adds_only: bool = False
    context_tokens: int | None = None


class WithdrawMessage(Struct, frozen=True):
    """Take back a person's message whose reply is queued and has never started. The rest is what the session knows of
    the message: its role, its parent, and its replies.
    """

    message_id: str
    role: str = ""
    parent_id: str | None = None
    reply_ids: tuple[str, ...] = ()


class SelectBranch(Struct, frozen=True):
    """Continue with the branch of `message_id`, at its newest message."""

    message_id: str
    idempotency_key: IdempotencyKey | None = None


class Fork(Struct, frozen=True):
    """A new session `session_id` of the caller that begins with the history up to `message_id`.

    None: up to the newest message of the selected branch that is no longer being written.
    """

    session_id: str
    message_id: str | None = None
    messages_max: int = 10_000
    idempotency_key: IdempotencyKey | None = None


class CopyTexts(Struct, frozen=True):
    """Copy these texts into the session: the session that it adopted them from is about to be erased."""

    events: tuple[MessageCopied, ...]


class StartReply(Struct, frozen=True):
    """Start the first queued reply, if none runs. If it is not `reply_id`, another node is to start it.

    `context_tokens` and `branch` as in PostMessage.
    """

    parameters: Parameters
    reply_id: str | None = None
    context_tokens: int | None = None
    branch: tuple[ContextMessage, ...] | None = None


class CheckpointReply(Struct, frozen=True):
    """Record what a reply has grown by: one event for each part that has. `started`: as in EndReply."""

    reply_id: str
    events: tuple[ReplyProgressed, ...]
    started: int | None = None


class EndReply(Struct, frozen=True):
    """Record how a reply ended; `again`: and request it once more.

    `started` is the version of the reply_started of the attempt that is meant; None: whichever. Meanwhile another node
    may have closed that attempt and begun the next one.
    """

    event: ReplyEnded
    again: ReplyRequested | None = None
    started: int | None = None


class RequeueReplies(Struct, frozen=True):
    """Request once more replies that were interrupted."""

    events: tuple[ReplyRequested, ...]


class CancelReply(Struct, frozen=True):
    """Stop the running reply (`reply_id` None), or the running or queued reply `reply_id`, and the model's work on it.
    If it has ended and its tool calls are open, close these; `reply_id` None then means the newest reply of the
    selected branch. Does nothing otherwise.
    """

    cause: str = "client"
    idempotency_key: IdempotencyKey | None = None
    reply_id: str | None = None


class InterruptReplies(Struct, frozen=True):
    """End the running and queued replies: the service is shutting down."""


class ChangeMetadata(Struct, frozen=True):
    """Merge `metadata` and `parameters` (None removes a key), set title, system prompt and pin, where given."""

    metadata: dict[str, Any] | UnsetType = UNSET
    title: str | UnsetType | None = UNSET
    system_prompt: str | UnsetType | None = UNSET
    parameters: dict[str, Any] = {}
    metadata_max_bytes: int = 16384
    metadata_keys_max: int = 64
    pinned: bool | UnsetType = UNSET


class RecordAccess(Struct, frozen=True):
    """The session is read. `always`: record the access however recent the last one is."""

    always: bool = False


class RecordView(Struct, frozen=True):
    """A client is about to read `what` of the session, which may have expired. Its right to do so is checked before."""

    what: str


class MarkRead(Struct, frozen=True):
    """A client has shown all replies that ended at `version` or before; None: up to now."""

    version: int | None = None


class Expire(Struct, frozen=True):
    """Expire the session, if its own state says that its deadline is past."""


class DeleteSession(Struct, frozen=True):
    """`usage` are the totals that outlive the content.

    `may_wait`: if forks read many of its texts, the erasure happens in the background, after the answer. `reason_code`
    and `ticket` as in session_deleted. `hold`: a legal hold on the session, found by its actor, which refuses then.
    """

    reason: str = "request"
    usage: tuple[UsageTotal, ...] = ()
    may_wait: bool = False
    reason_code: str | None = None
    ticket: str | None = None
    hold: Hold | None = None


class RedactMessage(Struct, frozen=True):
    """Remove the content of a message, or of its part number `part`, for good. `reason_code` and `ticket` as in
    message_redacted.

    `checks_only`: refuse what would be refused, and record nothing. `holds_version`: that of the legal holds by which
    all sessions that show the message were checked; with another one, nothing is recorded. `hold` as in DeleteSession;
    `event` is what the actor has found to be recorded.
    """

    message_id: str
    reason_code: str
    part: int | None = None
    ticket: str | None = None
    checks_only: bool = False
    holds_version: int | None = None
    hold: Hold | None = None
    event: MessageRedacted | None = None


class BeginErasure(Struct, frozen=True):
    """Close the session to all callers now; its content is erased once forks have copied the texts that they read. The
    rest is as in DeleteSession.
    """

    reason: str
    reason_code: str | None = None
    ticket: str | None = None


class CatchUp(Struct, frozen=True):
    """Read what another node has recorded in this session."""


class CloseOrphans(Struct, frozen=True):
    """Close the replies that dead nodes have left open."""


class Stop(Struct, frozen=True):
    """Passivate the actor. Open replies are interrupted first."""


ReplyRequest = PostMessage | Regenerate | PostTranscript

Command = (
    CreateSession
    | PostMessage
    | Regenerate
    | PostTranscript
    | WithdrawMessage
    | SelectBranch
    | Fork
    | CopyTexts
    | StartReply
    | CheckpointReply
    | EndReply
    | RequeueReplies
    | CancelReply
    | InterruptReplies
    | ChangeMetadata
    | RecordAccess
    | RecordView
    | MarkRead
    | Expire
    | DeleteSession
    | RedactMessage
    | BeginErasure
    | CatchUp
    | CloseOrphans
    | Stop
)


class Decision(Struct, frozen=True):
    """The events to record, and why the caller is refused, if so. `messages`: those that a started reply is sent; the
    session's state need not keep them all.
    """

    events: tuple[Event, ...] = ()
    rejection: rejections.Rejection | None = None
    messages: tuple[ContextMessage, ...] = ()
