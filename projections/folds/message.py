"""One message in the read model: its place in the tree, its state, and the log position of its text."""

from msgspec import Struct

# What became of a reply's tool calls; other messages have None. Only replies that completed have open calls.
OPEN, ANSWERED, CLOSED = "open", "answered", "closed"

OTHER_MODEL = "other"  # in metrics and usage: every model that is not the service's own or a known one
COMPLETE = "complete"
QUEUED = "queued"
STREAMING = "streaming"
ENDINGS = {
    "reply_completed": COMPLETE,
    "reply_failed": "failed",
    "reply_cancelled": "cancelled",
    "reply_interrupted": "interrupted",
}

# The finish reason of a reply that did not complete; a completed one has recorded its own.
FINISH_REASONS = {"failed": "error", "cancelled": "cancelled", "interrupted": "error"}


class MessageRow(Struct, frozen=True, array_like=True):
    """A message as queries return it: decoded from an array in the order of these fields.

    `position` is that of the event with its text, 0 while a reply has not ended; `version` is the stream version of the
    newest event about it, except checkpoints of its text and what became of its tool calls. `created_at_us` of a reply
    is when it started. `depth` counts from the root, which has 1. `calls`, of a reply with tool calls: open, answered
    or closed. `siblings` are the ids of all messages under the same parent, this one included, oldest first.
    """

    no: int
    message_id: str
    parent_id: str | None
    depth: int
    role: str
    status: str
    position: int
    version: int
    created_at_us: int
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    calls: str | None = None
    siblings: tuple[str, ...] = ()


class TreeMessage(Struct, frozen=True, array_like=True):
    """A message's place in the tree of its session; the fields are as in MessageRow."""

    no: int
    message_id: str
    parent_id: str | None
    role: str
    position: int
    calls: str | None


class NewMessage(Struct, gc=False):
    """A row to insert. Not frozen: later events of the same batch change it.

    `depth` is None if the parent is of an earlier batch: then the table has its depth.
    """

    no: int
    message_id: str
    parent_id: str | None
    depth: int | None
    role: str
    status: str
    position: int
    version: int
    created_at_us: int
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    day: str | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    calls: str | None = None


class MessageUpdate(Struct, gc=False):
    """The changes of a later event to a row. None for `created_at_us` and `model` leaves them unchanged."""

    status: str
    position: int
    version: int
    created_at_us: int | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    day: str | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    calls: str | None = None


def merge_update(message: NewMessage | MessageUpdate, update: MessageUpdate) -> None:
    """Apply `update` to the row or update of an earlier event of the same batch."""
    message.status = update.status
    message.position = update.position
    message.version = update.version
    if update.created_at_us is not None:
        message.created_at_us = update.created_at_us
    if update.model is not None:
        message.model = update.model
    message.prompt_tokens = update.prompt_tokens
    message.completion_tokens = update.completion_tokens
    message.day = update.day
    message.reasoning_tokens = update.reasoning_tokens
    message.cached_tokens = update.cached_tokens
    message.calls = update.calls
