"""What a session can be asked to do. Imperative; may be refused. Ids and texts come in, nothing is made up inside."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from events.catalogue import Parameters, ReplyEnded, UsageTotal


class Asker(Struct, frozen=True):
    """Who asks. `owner` is the API key's name, None when the service runs without keys."""

    owner: str | None = None
    request_id: str | None = None
    is_service: bool = False


SERVICE = Asker(is_service=True)


class CreateSession(Struct, frozen=True):
    owner: str | None
    metadata: dict[str, Any]
    timeout_s: int
    title: str | None
    system_prompt: str | None


class PostMessage(Struct, frozen=True):
    """`parent_id`: unset = after the newest message of the selected branch, None = from the start.

    `on_busy`, while a reply runs: queue, reject, or interrupt (which cancels the running and the waiting ones).
    `whole`: the asker does not watch the reply grow.
    """

    message_id: str
    reply_id: str
    content: str
    parameters: Parameters
    parent_id: str | UnsetType | None = UNSET
    on_busy: str = "queue"
    whole: bool = False


class StartReply(Struct, frozen=True):
    """Start the reply that waits first, now that none runs."""

    parameters: Parameters


class CheckpointReply(Struct, frozen=True):
    reply_id: str
    offset: int
    text: str


class EndReply(Struct, frozen=True):
    """Record how a reply ended."""

    event: ReplyEnded


class CancelReply(Struct, frozen=True):
    """Stop the running reply, if there is one, and the model's work on it."""

    cause: str = "client"


class InterruptReplies(Struct, frozen=True):
    """End the running reply and those that wait: the service is going down."""


class ChangeMetadata(Struct, frozen=True):
    """Merge `metadata` (None removes a key) and set the title, where given."""

    metadata: dict[str, Any] | UnsetType = UNSET
    title: str | UnsetType | None = UNSET
    metadata_max_bytes: int = 16384
    metadata_keys_max: int = 64


class Touch(Struct, frozen=True):
    """The session is being read."""


class Expire(Struct, frozen=True):
    """The expiry timer believes that the session's time has come."""


class DeleteSession(Struct, frozen=True):
    """`usage` is what stays on the books when the content is gone."""

    reason: str = "request"
    usage: tuple[UsageTotal, ...] = ()


class Stop(Struct, frozen=True):
    """Passivate now. Replies that still run are ended first."""


Command = (
    CreateSession
    | PostMessage
    | StartReply
    | CheckpointReply
    | EndReply
    | CancelReply
    | InterruptReplies
    | ChangeMetadata
    | Touch
    | Expire
    | DeleteSession
    | Stop
)
