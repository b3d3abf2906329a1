"""The frames of event streams, as types: each is one server-sent event with an `id:` line and a `data:` line of JSON.

An id is a cursor, <version>:<offset>: the last recorded event that the reader knows, and how many code points it has
of the reply that is being written after it, over all of its parts: the text of texts, reasoning and refusals, and the
arguments of tool calls. A reader that returns may be sent the beginning of an empty part once more.
"""

from typing import Any, Literal, assert_never

from msgspec import Struct

from chatbot.sessions.replies.growing_parts import Segment
from events.catalogue import Usage
from events.schema.parts import Parts

CURSOR_PATTERN = r"[0-9]{1,15}(:[0-9]{1,15})?"  # no more digits than any program can count exactly

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "error"]


class Start(Struct, frozen=True, tag_field="type", tag="start"):
    """The user's message is on disk; the reply will have the id `message_id`."""

    session_id: str
    message_id: str
    user_message_id: str
    version: int
    model: str | None


class Chunk(Struct, frozen=True, tag_field="type", tag="chunk", omit_defaults=True):
    """More text of the reply. `part` is its index among the reply's parts, left out while it is 0."""

    content: str
    part: int = 0


class FeedChunk(Struct, frozen=True, tag_field="type", tag="chunk", omit_defaults=True):
    """More text of the reply `message_id`: a session's feed may have several replies. `part` as in `Chunk`."""

    content: str
    message_id: str
    part: int = 0


class ReasoningChunk(Struct, frozen=True, tag_field="type", tag="reasoning", omit_defaults=True):
    """More of what the model thinks before it answers. `part` is the index among the reply's parts; `message_id`, the
    reply's, is there in a session's feed.
    """

    content: str
    part: int
    message_id: str | None = None


class RefusalChunk(Struct, frozen=True, tag_field="type", tag="refusal", omit_defaults=True):
    """More of why the model does not do what it was asked. `part` and `message_id` as in `ReasoningChunk`."""

    content: str
    part: int
    message_id: str | None = None


class ToolCallChunk(Struct, frozen=True, tag_field="type", tag="tool_call", omit_defaults=True):
    """More of the arguments of a tool call. `part` and `message_id` as in `ReasoningChunk`."""

    call_id: str
    name: str
    arguments: str
    part: int
    message_id: str | None = None


class CallsClosed(Struct, frozen=True, tag_field="type", tag="calls_closed"):
    """No results will come for these tool calls of the reply `message_id`: the conversation went on without them
    (superseded), or they were cancelled.
    """

    message_id: str
    call_ids: list[str]
    reason: str
    version: int


class Complete(Struct, frozen=True, tag_field="type", tag="complete"):
    """The whole reply is on disk."""

    message_id: str
    full_response: str
    finish_reason: FinishReason | None
    token_usage: Usage | None
    created_at: str
    version: int
    finish_detail: str
    duration_us: int | None
    time_to_first_token_us: int | None


class Error(Struct, frozen=True, tag_field="type", tag="error", omit_defaults=True):
    """The reply failed, was cancelled or interrupted; its partial text is kept. `message` repeats `detail` (midm).

    `length` is how many code points of it are kept. After a crash a reader may have a little more, which it cuts off.
    Of a reply with several parts `length` counts its text only; `part_lengths` tells how many code points are kept of
    each part, and what has come of further parts is dropped.
    With status `unrecorded` the end is not recorded yet: `length` is all that was sent, so nothing is cut, and the
    session's feed, resumed from this frame's id, has the end.
    """

    status: str
    title: str
    detail: str
    message: str
    message_id: str
    version: int
    length: int
    part_lengths: tuple[int, ...] = ()


class Message(Struct, frozen=True, tag_field="type", tag="message", omit_defaults=True):
    """A message was posted. `reply_id` is the id of the reply that it will get, which is queued until its `start`.
    `parts` are left out of a message of text alone. `imported`: only a client says that it was written.
    """

    message_id: str
    parent_id: str | None
    role: Literal["user", "assistant", "system", "tool"]
    content: str
    created_at: str
    reply_id: str | None
    version: int
    parts: Parts = ()
    imported: bool = False


class Queued(Struct, frozen=True, tag_field="type", tag="queued"):
    """Another reply to a message was requested, or an interrupted one is to be written again. It is queued until its
    `start`, which follows immediately if no other reply runs.
    """

    session_id: str
    message_id: str
    user_message_id: str
    version: int


class Session(Struct, frozen=True, tag_field="type", tag="session"):
    """The session's title and metadata: the first frame where no cursor is given, and at each change."""

    session_id: str
    title: str | None
    metadata: dict[str, Any]
    version: int


class Branch(Struct, frozen=True, tag_field="type", tag="branch"):
    """The branch that ends with this message is the selected one."""

    message_id: str
    version: int


class Expired(Struct, frozen=True, tag_field="type", tag="expired"):
    """The session has expired; `[DONE]` follows."""

    version: int


class Deleted(Struct, frozen=True, tag_field="type", tag="deleted"):
    """The session was deleted; `[DONE]` follows."""

    version: int


class Resync(Struct, frozen=True, tag_field="type", tag="resync"):
    """What follows the cursor is gone or never existed: read the messages again. The feed continues from now."""

    version: int


class Removed(Struct, frozen=True, tag_field="type", tag="removed"):
    """The queued message `message_id` was taken back: it and its reply `reply_id` are not in the conversation any more.
    What followed that reply follows `parent_id` now.
    """

    message_id: str
    reply_id: str
    parent_id: str | None
    version: int


class Redaction(Struct, frozen=True, tag_field="type", tag="redacted"):
    """The message `message_id`, or its part number `part` alone, was redacted: discard what was sent of it."""

    message_id: str
    part: int | None
    reason_code: str
    version: int


class Draining(Struct, frozen=True, tag_field="type", tag="draining"):
    """The service stops, and the stream ends: reconnect after the time in its `retry:` line."""

    version: int


PartChunk = ReasoningChunk | RefusalChunk | ToolCallChunk
Frame = Start | Chunk | ReasoningChunk | RefusalChunk | ToolCallChunk | Complete | Error
FeedFrame = (
    Start
    | FeedChunk
    | ReasoningChunk
    | RefusalChunk
    | ToolCallChunk
    | Complete
    | Error
    | Message
    | Queued
    | Session
    | CallsClosed
    | Branch
    | Removed
    | Redaction
    | Expired
    | Deleted
    | Resync
    | Draining
)  # fmt: skip


def growth_frame(segment: Segment) -> Chunk | PartChunk:
    """The frame of a piece of a reply. Pure."""
    if segment.kind == "text":
        return Chunk(segment.text, segment.part)
    return _part_chunk(segment, None)


def feed_growth_frame(segment: Segment, message_id: str) -> FeedChunk | PartChunk:
    """As `growth_frame`, in a session's feed, of the reply `message_id`. Pure."""
    if segment.kind == "text":
        return FeedChunk(segment.text, message_id, segment.part)
    return _part_chunk(segment, message_id)


def _part_chunk(segment: Segment, message_id: str | None) -> PartChunk:
    """The frame of a piece of any other part than text."""
    match segment.kind:
        case "reasoning":
            return ReasoningChunk(segment.text, segment.part, message_id)
        case "refusal":
            return RefusalChunk(segment.text, segment.part, message_id)
        case "tool_call":
            return ToolCallChunk(segment.call_id, segment.name, segment.text, segment.part, message_id)
        case "text":
            raise ValueError("text has frames of its own")
        case _:
            assert_never(segment.kind)
