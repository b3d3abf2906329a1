"""What a session can be asked to do. Imperative; may be refused. Ids and texts come in, nothing is made up inside."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from events.catalogue import MessageCopied, Parameters, ReplyEnded, ReplyRequested, UsageTotal


class Caller(Struct, frozen=True):
    """Who asks. `owner` is the API key's name, None when the service runs without keys."""

    owner: str | None = None
    request_id: str | None = None
    is_service: bool = False


SERVICE = Caller(is_service=True)


class IdempotencyKey(Struct, frozen=True):
    """A request that is to take effect once, however often it comes: its Idempotency-Key, and what it asks for."""

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


class PostMessage(Struct, frozen=True):
    """`parent_id`: unset = after the newest message of the selected branch, None = from the start.

    `on_busy`, while a reply runs: queue, reject, or interrupt (which cancels the running and the waiting ones).
    `stream`: False if the client waits for the complete reply. `parameters` are those that the request names,
    `without_stop` where it names an empty list of stops.
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


class Regenerate(Struct, frozen=True):
    """Another reply to the same message. `message_id` is a reply or what it answers; None: the newest reply.

    `turn`: the recorded parameters of that reply or message; they come next after those that the request names.
    """

    reply_id: str
    message_id: str | None
    parameters: Parameters
    on_busy: str = "queue"
    stream: bool = True
    idempotency_key: IdempotencyKey | None = None
    without_stop: bool = False
    turn: Parameters = Parameters()


class SelectBranch(Struct, frozen=True):
    """Go on with the branch of `message_id`, at its newest message."""

    message_id: str
    idempotency_key: IdempotencyKey | None = None


class Fork(Struct, frozen=True):
    """A new session `session_id` of the asker's that begins with the history up to `message_id`.

    None: up to the newest message of the selected branch that is no longer being written.
    """

    session_id: str
    message_id: str | None = None
    messages_max: int = 10_000
    idempotency_key: IdempotencyKey | None = None


class CopyTexts(Struct, frozen=True):
    """Keep these texts here: the session that they were adopted from is about to be erased."""

    events: tuple[MessageCopied, ...]


class StartReply(Struct, frozen=True):
    """Start the reply that waits first, now that none runs. One that is not `reply_id` is another node's to start."""

    parameters: Parameters
    reply_id: str | None = None


class CheckpointReply(Struct, frozen=True):
    reply_id: str
    offset: int
    text: str


class EndReply(Struct, frozen=True):
    """Record how a reply ended, and perhaps that it is owed all the same."""

    event: ReplyEnded
    again: ReplyRequested | None = None


class RequeueReplies(Struct, frozen=True):
    """These replies were interrupted and are owed all the same."""

    events: tuple[ReplyRequested, ...]


class CancelReply(Struct, frozen=True):
    """Stop the running reply (None: whichever it is), or the reply `reply_id`, which may run or wait, and the model's
    work on it. Nothing happens where there is none, or the named one has ended.
    """

    cause: str = "client"
    idempotency_key: IdempotencyKey | None = None
    reply_id: str | None = None


class InterruptReplies(Struct, frozen=True):
    """End the running reply and those that wait: the service is going down."""


class ChangeMetadata(Struct, frozen=True):
    """Merge `metadata` and `parameters` (None removes a key), set the title and the system prompt, where given."""

    metadata: dict[str, Any] | UnsetType = UNSET
    title: str | UnsetType | None = UNSET
    system_prompt: str | UnsetType | None = UNSET
    parameters: dict[str, Any] = {}
    metadata_max_bytes: int = 16384
    metadata_keys_max: int = 64


class RecordAccess(Struct, frozen=True):
    """The session is being read. `noted`: that is recorded, however recent the last access is."""

    noted: bool = False


class Expire(Struct, frozen=True):
    """The expiry timer believes that the session's time has come."""


class DeleteSession(Struct, frozen=True):
    """`usage` is what stays on the books when the content is gone.

    `may_wait`: where forks read many of its texts, the answer does not wait for the erasure.
    """

    reason: str = "request"
    usage: tuple[UsageTotal, ...] = ()
    may_wait: bool = False


class BeginErasure(Struct, frozen=True):
    """From now on the session is gone for everybody; its content is erased once forks have copied what they read."""

    reason: str


class CatchUp(Struct, frozen=True):
    """Another node has recorded something in this session."""


class CloseOrphans(Struct, frozen=True):
    """Close what nodes that are gone have left open."""


class Stop(Struct, frozen=True):
    """Passivate now. Replies that still run are ended first."""


Command = (
    CreateSession
    | PostMessage
    | Regenerate
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
    | Expire
    | DeleteSession
    | BeginErasure
    | CatchUp
    | CloseOrphans
    | Stop
)
