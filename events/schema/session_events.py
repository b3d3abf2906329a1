"""The events of a session, in the past tense; see events/catalogue.py for the rules that every event follows."""

from typing import Any

from events.schema.adoption import AdoptedMessage, Origin
from events.schema.event import Event, Traits
from events.schema.kept_event import KeptEvent
from events.schema.naming import ConversationName
from events.schema.parameters import UNNAMED, ContextLeftOut, Parameters, ReplySettings, Usage, UsageTotal
from events.schema.parts import Parts


class SessionCreated(Event, frozen=True, tag="session_created"):
    """`forked_from`: the session starts with another one's history. `timeout_s` 0: it never expires.

    `kind`: empty for a conversation, `stateless` for one request that names none, `task` for a front end's own request
    about a conversation, such as its title. `named_by`: the conversation's name outside, if a client gave it one.
    """

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
    kind: str = ""
    named_by: ConversationName | None = None

    @property
    def settings(self) -> ReplySettings:
        return ReplySettings(self.system_prompt, self.parameters)


class MetadataChanged(Event, frozen=True, tag="metadata_changed"):
    """Metadata, title and settings as they are after the change, all of them, so that the newest event is enough.
    `settings` None: they are still those of session_created. `pinned`: the client keeps the session in sight.
    """

    traits = Traits(is_access=True, holds_message=False)

    metadata: dict[str, Any]
    title: str | None = None
    settings: ReplySettings | None = None
    pinned: bool = False


class SessionAccessed(Event, frozen=True, tag="session_accessed"):
    """A client read the session. Recorded at most once per `access_resolution_s`.

    With an idempotency key: a client requested a change that had no effect (a cancel while no reply was running), and
    gets the same answer when it repeats the request.
    """

    traits = Traits(is_access=True, holds_message=False)

    idempotency_key: str | None = None
    fingerprint: str | None = None


class SessionRead(Event, frozen=True, tag="session_read"):
    """A client has shown all replies that ended at `version` of the session or before. No access: a client may mark
    sessions as read that nobody uses.
    """

    traits = Traits(is_access=False, holds_message=False)

    version: int


class SessionViewed(Event, frozen=True, tag="session_viewed"):
    """The key is about to read `what` of the session, see auth.record_reads. No access: SessionAccessed is."""

    traits = Traits(is_access=False, holds_message=False)

    what: str


class SessionExpired(Event, frozen=True, tag="session_expired"):
    """The session expired at `deadline_us`, after its timeout without an access.

    With an `erase_reason`: it was deleted for that reason, and its content is erased once the texts that forks read are
    copied; `node` (None: a process that serves alone) does this. `reason_code` and `ticket` as in session_deleted.
    """

    traits = Traits(is_access=False, holds_message=False)

    deadline_us: int
    erase_reason: str | None = None
    node: str | None = None
    reason_code: str | None = None
    ticket: str | None = None


class SessionDeleted(Event, frozen=True, tag="session_deleted"):
    """The session is deleted. The content of its earlier events is erased in the same transaction. `kind` is as in
    session_created. `reason_code` and `ticket` are those that the person named who asked for it; None: there are none.
    """

    traits = Traits(is_access=False, holds_message=False, explains_erasure=True)

    reason: str
    owner: str | None = None
    usage: tuple[UsageTotal, ...] = ()
    kind: str = ""
    reason_code: str | None = None
    ticket: str | None = None


class MessagePosted(Event, frozen=True, tag="message_posted"):
    """A message was accepted. `reply_id` is the id of its future reply; None: it gets none.

    `node` is responsible for the reply; None: a process that serves alone. `imported`: a client sent it as a part of
    the history, so that only the client says that it was written; an assistant's is no reply of this service.
    `client_id` and `reply_client_id` are a front end's own ids of the message and of its reply.
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
    imported: bool = False
    client_id: str | None = None
    reply_client_id: str | None = None


class MessageWithdrawn(Event, frozen=True, tag="message_withdrawn"):
    """A person took back the message `message_id` while its reply `reply_id` was queued: neither is in the conversation
    any more. What followed that reply now follows `parent_id`, the message's parent.
    """

    traits = Traits(is_access=True, holds_message=False)

    message_id: str
    reply_id: str
    parent_id: str | None


class ReplyRequested(Event, frozen=True, tag="reply_requested"):
    """A further reply to the message `parent_id` was requested. Attempt 1: a client requested it (regenerate). Above 1:
    the reply `reply_id` was interrupted and is retried. `node` and `reply_client_id` as in `message_posted`.
    """

    traits = Traits(is_access=True, holds_message=False)

    reply_id: str
    parent_id: str
    parameters: Parameters = Parameters()
    attempt: int = 1
    idempotency_key: str | None = None
    fingerprint: str | None = None
    node: str | None = None
    reply_client_id: str | None = None


class ReplyStarted(Event, frozen=True, tag="reply_started"):
    """The request is sent to the model. It can be rebuilt exactly from this event and the messages `context_ids`.

    `attempt` counts from 1; each further one starts the reply's text from the beginning. `joined`: consecutive messages
    of one role were sent as one, with a blank line between them. `counted_as`: the model's name in `parameters`, if it
    is configured or offered: usage figures outlive texts, so they contain no other name that a client sent.
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
    it, if that differs. `counted_as`: `model`, if that name is known and the requested one is not.
    `refused_parameters`: fields of the request that the server does not accept: left out, or sent under another name.
    `server`, `provider`: of several model servers, the name and protocol of the one that was asked last.
    """

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
    server: str | None = None
    provider: str | None = None


class ReplyFailed(Event, frozen=True, tag="reply_failed"):
    """The reply failed. `cause` is the `cause` of an LlmError (`chatbot/llm/provider.py`), `detail` a sentence.

    `finish_detail` is the model server's own word if it ended the reply. `usage` and `model` are set if the server
    reported tokens nevertheless. `counted_as` as in `reply_completed`.
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
    server: str | None = None
    provider: str | None = None


class ReplyCancelled(Event, frozen=True, tag="reply_cancelled"):
    """The reply was cancelled by a client, or with its session; the text that it had is kept."""

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
    server: str | None = None
    provider: str | None = None


class ReplyInterrupted(Event, frozen=True, tag="reply_interrupted"):
    """The process that generated the reply stopped or crashed; the text recorded by then is kept."""

    traits = Traits(is_access=False, holds_message=True, schema_version=2, has_plain_version=True)

    reply_id: str
    content: str
    cause: str
    duration_us: int = 0
    parts: Parts = ()
    usage: Usage | None = None
    model: str | None = None
    counted_as: str | None = None
    server: str | None = None
    provider: str | None = None


class ToolCallsClosed(Event, frozen=True, tag="tool_calls_closed"):
    """These tool calls of a reply get no results. `reason`: superseded (the conversation continued without them) or
    cancelled.
    """

    traits = Traits(is_access=True, holds_message=False)

    reply_id: str
    call_ids: tuple[str, ...]
    reason: str
    idempotency_key: str | None = None
    fingerprint: str | None = None


class BranchSelected(Event, frozen=True, tag="branch_selected"):
    """The conversation continues after `message_id`, the last message of the selected branch."""

    traits = Traits(is_access=True, holds_message=False)

    message_id: str
    idempotency_key: str | None = None
    fingerprint: str | None = None


class HistoryAdopted(Event, frozen=True, tag="history_adopted"):
    """A fork starts with these messages of other sessions, root first. Their texts are not copied."""

    traits = Traits(is_access=False, holds_message=False)

    messages: tuple[AdoptedMessage, ...]


class MessageCopied(Event, frozen=True, tag="message_copied"):
    """The copied text of an adopted message, recorded before the session that it came from is erased. `imported` as in
    `message_posted`, the durations as in `reply_completed`; None: not recorded.
    """

    traits = Traits(is_access=False, holds_message=True, schema_version=2, has_plain_version=True)

    message_id: str
    role: str
    content: str
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None
    finish_detail: str = ""
    parts: Parts = ()
    imported: bool = False
    duration_us: int | None = None
    time_to_first_token_us: int | None = None


class MessageRedacted(Event, frozen=True, tag="message_redacted"):
    """The content of the message `message_id`, or of its part number `part` alone, was redacted for the reason with
    this code. `ticket`: an operator's own reference.

    The content of the events at `versions` of this session is erased in the same transaction: those that contained the
    message, and earlier redactions of it. `kept` is what is left of them; of a reply's checkpoints nothing is. `files`:
    the SHA-256 of the files that `kept` refers to. `events_erased` is the number of `versions`, for receipts: a later
    redaction of the message removes these. A fork that reads the message from another session has the event without
    `versions`.
    """

    traits = Traits(is_access=False, holds_message=False)

    message_id: str
    reason_code: str
    part: int | None = None
    ticket: str | None = None
    events_erased: int = 0
    versions: tuple[int, ...] = ()
    kept: tuple[KeptEvent, ...] = ()
    files: tuple[str, ...] = ()


class ContentErased(Event, frozen=True, tag="content_erased"):
    """The content of the session's earlier events is erased in the same transaction; the session continues, empty.
    Reserved: projections fold it, but nothing appends it yet.
    """

    traits = Traits(is_access=False, holds_message=False, explains_erasure=True)

    reason: str
    events_erased: int
    timeout_s: int
    owner: str | None = None
    usage: tuple[UsageTotal, ...] = ()


SessionEvent = (
    SessionCreated
    | MetadataChanged
    | SessionAccessed
    | SessionRead
    | SessionViewed
    | SessionExpired
    | SessionDeleted
    | MessagePosted
    | MessageWithdrawn
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
    | MessageRedacted
    | ContentErased
)
