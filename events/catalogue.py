"""Every event that a log may hold: past-tense facts about one session.

Names in the log are fixed for ever: a tag below is what the `type` column holds, whatever its class is called.
A field may be added with a default, never renamed or removed; a default is part of the format, because fields
equal to their default are not written. A change of shape raises the class's `schema_version` and adds a step to
`upcasters.py`.

Texts are Unicode strings; offsets count code points; durations and times are microseconds (`_us`).

An event that a request with an Idempotency-Key caused holds the key and the fingerprint of the request's body, so
that the same request is known again whenever it comes. Being content, both go when the event is erased.
"""

from typing import Any, ClassVar, get_args

from msgspec import Struct

from events.parameters import UNNAMED, ContextLeftOut
from events.parameters import Parameters as Parameters  # noqa: PLC0414  exported, being part of events
from events.parameters import ReplySettings as ReplySettings  # noqa: PLC0414  likewise
from events.parameters import Usage as Usage  # noqa: PLC0414  likewise
from events.parameters import UsageTotal as UsageTotal  # noqa: PLC0414  likewise
from events.parts import Parts


class Traits(Struct, frozen=True, kw_only=True):
    """What every event of a class is. The first two have no default, so that no class can forget them.

    `is_access`: its session was used, by a person or by a reply that reached its end. `holds_message`: it has the whole
    of one message, to which forks, imports and searches lead. `explains_erasure`: earlier content of its stream is
    gone. `schema_version`: the current shape. `has_plain_version`: events without parts are of version 1, which is
    version 2 without them.
    """

    is_access: bool
    holds_message: bool
    explains_erasure: bool = False
    schema_version: int = 1
    has_plain_version: bool = False


class Event(Struct, frozen=True, tag_field="type", omit_defaults=True):
    """A fact about one session. Subclasses name it; the envelope (`RecordedEvent`) says when and by whom."""

    traits: ClassVar[Traits]


class Origin(Struct, frozen=True):
    """Where a fork was taken: after `message_id` (None: an empty history) of the session at `version`."""

    session_id: str
    version: int
    message_id: str | None


class AdoptedMessage(Struct, frozen=True, omit_defaults=True):
    """A message of another session that a fork begins with. Its text is in the event at log position `position`.

    `calls`, of a reply with tool calls: open, answered or closed, when the fork was taken.
    """

    message_id: str
    parent_id: str | None
    role: str
    status: str
    position: int
    created_at_us: int
    model: str | None = None
    calls: str | None = None


class SessionCreated(Event, frozen=True, tag="session_created"):
    """`forked_from`: the history that it begins with is another session's. `timeout_s` 0: it never expires."""

    traits = Traits(is_access=True, holds_message=False, schema_version=2)

    owner: str | None
    metadata: dict[str, Any]
    timeout_s: int
    title: str | None = None
    system_prompt: str | None = None
    forked_from: Origin | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    parameters: Parameters = UNNAMED

    @property
    def settings(self) -> ReplySettings:
        return ReplySettings(self.system_prompt, self.parameters)


class MetadataChanged(Event, frozen=True, tag="metadata_changed"):
    """Metadata, title and settings as a whole, after the change: the newest one tells them all. `settings` None: they
    are those of session_created.
    """

    traits = Traits(is_access=True, holds_message=False)

    metadata: dict[str, Any]
    title: str | None = None
    settings: ReplySettings | None = None


class SessionAccessed(Event, frozen=True, tag="session_accessed"):
    """Someone read the session. Recorded coarsely, at most once per `access_resolution_s`.

    With an idempotency key: someone asked for a change where nothing was left to change (a cancel with no reply
    running), and is to hear the same when asking again.
    """

    traits = Traits(is_access=True, holds_message=False)

    idempotency_key: str | None = None
    fingerprint: str | None = None


class SessionExpired(Event, frozen=True, tag="session_expired"):
    """The session is over at `deadline_us`, because nobody has used it for so long.

    With an `erase_reason`: because someone deleted it, which that reason tells; its content is erased once the texts
    that forks read are copied. `node` is the one of several nodes that does it.
    """

    traits = Traits(is_access=False, holds_message=False)

    deadline_us: int
    erase_reason: str | None = None
    node: str | None = None


class SessionDeleted(Event, frozen=True, tag="session_deleted"):
    """The session is gone and the content of its earlier events is erased in the same transaction."""

    traits = Traits(is_access=False, holds_message=False, explains_erasure=True)

    reason: str
    owner: str | None = None
    usage: tuple[UsageTotal, ...] = ()


class MessagePosted(Event, frozen=True, tag="message_posted"):
    """A message was accepted. `reply_id` names the reply that it will get, before that reply starts.

    `node` is the one of several nodes that owes the reply; None where one process serves alone.
    """

    traits = Traits(is_access=True, holds_message=True, schema_version=2, has_plain_version=True)

    message_id: str
    parent_id: str | None
    role: str
    content: str
    reply_id: str | None = None
    parameters: Parameters = Parameters()
    idempotency_key: str | None = None
    fingerprint: str | None = None
    node: str | None = None
    parts: Parts = ()


class ReplyRequested(Event, frozen=True, tag="reply_requested"):
    """A further reply to the message `parent_id` is owed.

    Attempt 1: someone asked for another answer beside those that it has. Above: the reply `reply_id` was interrupted
    and is to be written anew. `node` as in `message_posted`.
    """

    traits = Traits(is_access=True, holds_message=False)

    reply_id: str
    parent_id: str
    parameters: Parameters = Parameters()
    attempt: int = 1
    idempotency_key: str | None = None
    fingerprint: str | None = None
    node: str | None = None


class ReplyStarted(Event, frozen=True, tag="reply_started"):
    """The model is being asked. With the texts of `context_ids` the very request can be built again.

    `attempt` counts from 1; a further one begins the reply's text anew. `joined`: messages of one role that follow each
    other were sent as one, with a blank line between them. `counted_as`: the name in `parameters`, if it is configured
    or offered. Figures outlive texts, so they hold no other name that a client sent.
    """

    traits = Traits(is_access=False, holds_message=False)

    reply_id: str
    parent_id: str
    node: str
    provider: str
    model: str
    parameters: Parameters
    context_ids: tuple[str, ...]
    attempt: int = 1
    joined: bool = False
    counted_as: str | None = None
    context_left_out: ContextLeftOut | None = None


class ReplyProgressed(Event, frozen=True, tag="reply_progressed"):
    """A checkpoint: `text` continues the reply at code point `offset`."""

    traits = Traits(is_access=False, holds_message=False, schema_version=2, has_plain_version=True)

    reply_id: str
    offset: int
    text: str
    part: int = 0
    kind: str = "text"
    call_id: str = ""
    name: str = ""


class ReplyCompleted(Event, frozen=True, tag="reply_completed"):
    """`finish_reason` is stop, length, tool_calls or content_filter; `finish_detail` is the model server's own word for
    it where that is another one. `counted_as`: `model`, if only that name is known and not the one asked for.
    `refused_parameters`: fields of the request that the server does not accept: left out, or sent by another name."""

    traits = Traits(is_access=True, holds_message=True, schema_version=2, has_plain_version=True)

    reply_id: str
    content: str
    finish_reason: str
    model: str
    duration_us: int
    usage: Usage | None = None
    time_to_first_token_us: int | None = None
    counted_as: str | None = None
    finish_detail: str = ""
    refused_parameters: tuple[str, ...] = ()
    parts: Parts = ()


class ReplyFailed(Event, frozen=True, tag="reply_failed"):
    """The model could not finish. `cause` is a word of `chatbot/llm/provider.py`, `detail` a sentence.

    `finish_detail` is the model server's own word where it ended the reply itself; `usage`, and the `model` that used
    it, where it told the tokens all the same. `counted_as` as in `reply_completed`.
    """

    traits = Traits(is_access=True, holds_message=True, schema_version=2, has_plain_version=True)

    reply_id: str
    content: str
    cause: str
    detail: str = ""
    duration_us: int = 0
    finish_detail: str = ""
    usage: Usage | None = None
    model: str | None = None
    counted_as: str | None = None
    parts: Parts = ()


class ReplyCancelled(Event, frozen=True, tag="reply_cancelled"):
    traits = Traits(is_access=True, holds_message=True, schema_version=2, has_plain_version=True)

    reply_id: str
    content: str
    cause: str
    duration_us: int = 0
    idempotency_key: str | None = None
    fingerprint: str | None = None
    parts: Parts = ()
    usage: Usage | None = None
    model: str | None = None
    counted_as: str | None = None


class ReplyInterrupted(Event, frozen=True, tag="reply_interrupted"):
    """The service stopped or died under the reply; what had been recorded of it is kept."""

    traits = Traits(is_access=False, holds_message=True, schema_version=2, has_plain_version=True)

    reply_id: str
    content: str
    cause: str
    duration_us: int = 0
    parts: Parts = ()
    usage: Usage | None = None
    model: str | None = None
    counted_as: str | None = None


class ToolCallsClosed(Event, frozen=True, tag="tool_calls_closed"):
    """No results will come for these calls of a reply. `reason`: superseded (the conversation went on without them) or
    cancelled.
    """

    traits = Traits(is_access=True, holds_message=False)

    reply_id: str
    call_ids: tuple[str, ...]
    reason: str
    idempotency_key: str | None = None
    fingerprint: str | None = None


class BranchSelected(Event, frozen=True, tag="branch_selected"):
    """The conversation goes on after `message_id`, the last message of the branch."""

    traits = Traits(is_access=True, holds_message=False)

    message_id: str
    idempotency_key: str | None = None
    fingerprint: str | None = None


class HistoryAdopted(Event, frozen=True, tag="history_adopted"):
    """A fork begins with these messages of other sessions, root first. Their texts are not copied."""

    traits = Traits(is_access=False, holds_message=False)

    messages: tuple[AdoptedMessage, ...]


class MessageCopied(Event, frozen=True, tag="message_copied"):
    """The text of an adopted message, kept here because the session that it came from is about to be erased."""

    traits = Traits(is_access=False, holds_message=True, schema_version=2, has_plain_version=True)

    message_id: str
    role: str
    content: str
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None
    finish_detail: str = ""
    parts: Parts = ()


class ContentErased(Event, frozen=True, tag="content_erased"):
    """The content of the session's earlier events is erased in the same transaction; the session goes on, empty.
    Reserved: folded by the projections, appended by nothing yet."""

    traits = Traits(is_access=False, holds_message=False, explains_erasure=True)

    reason: str
    events_erased: int
    timeout_s: int
    owner: str | None = None
    usage: tuple[UsageTotal, ...] = ()


AnyEvent = (
    SessionCreated
    | MetadataChanged
    | SessionAccessed
    | SessionExpired
    | SessionDeleted
    | MessagePosted
    | ReplyRequested
    | ReplyStarted
    | ReplyProgressed
    | ReplyCompleted
    | ReplyFailed
    | ReplyCancelled
    | ReplyInterrupted
    | ToolCallsClosed
    | BranchSelected
    | HistoryAdopted
    | MessageCopied
    | ContentErased
)


class IgnoredEvent(Event, frozen=True, tag="ignored"):
    """Stands for an event of a newer program that says of itself that others may pass over it. Never recorded."""

    traits = Traits(is_access=False, holds_message=False)


LoggedEvent = AnyEvent | IgnoredEvent  # what a reader of the log may meet: a fold names every class of it

ReplyEnded = ReplyCompleted | ReplyFailed | ReplyCancelled | ReplyInterrupted

EVENT_TYPES: dict[str, type[Event]] = {str(cls.__struct_config__.tag): cls for cls in get_args(AnyEvent)}
SESSION_TYPES = frozenset(EVENT_TYPES)  # those that only the stream of a session holds

# The current shape of each type. session_created is at 2: version 1 kept its timeout in hours.
SCHEMA_VERSIONS: dict[str, int] = {name: cls.traits.schema_version for name, cls in EVENT_TYPES.items()}

ACCESS_TYPES = frozenset(name for name, cls in EVENT_TYPES.items() if cls.traits.is_access)
MESSAGE_TYPES = frozenset(name for name, cls in EVENT_TYPES.items() if cls.traits.holds_message)
ERASURE_TYPES = frozenset(name for name, cls in EVENT_TYPES.items() if cls.traits.explains_erasure)
