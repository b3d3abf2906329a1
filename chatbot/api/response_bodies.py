"""Response bodies as types. The OpenAPI document is made from the same types."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from chatbot.api.streaming.frames import FinishReason
from events.catalogue import ConversationName, Usage
from events.schema.parts import Reasoning, Redacted, Refusal, Text, ToolCall


class ParametersView(Struct, frozen=True, omit_defaults=True):
    """The parameters that the session sets; the service's defaults apply to the others."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    do_sample: bool | None = None
    top_p: float | None = None
    stop: list[str] = []
    seed: int | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] | None = None
    send_reasoning: bool | None = None


class PreviewView(Struct, frozen=True):
    """The newest message with text of the selected branch; `text` is its beginning, on one line."""

    message_id: str
    role: Literal["user", "assistant", "system", "tool"]
    text: str


class SessionView(Struct, frozen=True):
    """`kind` of a session that is no conversation: of a request under /v1 that names none, or a front end's own task,
    such as a title. `named_by`: what a client of /v1 calls the conversation.
    """

    session_id: str
    created_at: str
    last_accessed: str
    expires_at: str | None
    metadata: dict[str, Any]
    title: str | None
    version: int
    message_count: int
    status: Literal["active", "replying", "expired"]
    active_reply: str | None
    queued_replies: list[str]
    system_prompt: str | None
    model: str | None
    parameters: ParametersView
    pinned: bool
    unread: bool
    preview: PreviewView | UnsetType | None = UNSET
    kind: Literal["stateless", "task"] | UnsetType = UNSET
    named_by: ConversationName | UnsetType = UNSET


class SessionList(Struct, frozen=True, omit_defaults=True):
    """`cursor`: what changes in lists of sessions after this page is in the stream of changes after it."""

    sessions: list[SessionView]
    cursor: str
    next: str | None = None


class MediaView(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="media"):
    """A file; its bytes are at `url`."""

    sha256: str
    media_type: str
    bytes: int
    url: str
    name: str | None = None


class ToolResultView(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="tool_result"):
    """What a tool gave for the call `call_id` of the reply before."""

    call_id: str
    parts: list[Text | MediaView]
    is_error: bool = False


PartView = Text | Reasoning | Refusal | ToolCall | ToolResultView | MediaView | Redacted
CallsState = Literal["open", "answered", "closed"]


class MessageView(Struct, frozen=True):
    """`parts` is all that the message says, in order; `content` the text of those of type text. `imported` where only
    a client says that the message was written.
    """

    message_id: str
    session_id: str
    role: Literal["user", "assistant", "system", "tool"]
    content: str
    created_at: str
    token_usage: Usage | None
    parent_id: str | None
    status: Literal["complete", "queued", "streaming", "failed", "cancelled", "interrupted"]
    finish_reason: FinishReason | None
    finish_detail: str
    model: str | None
    siblings: list[str]
    parts: list[PartView]
    calls: CallsState | None
    duration_us: int | None
    time_to_first_token_us: int | None
    imported: Literal[True] | UnsetType = UNSET


class MessageList(Struct, frozen=True, omit_defaults=True):
    session_id: str
    messages: list[MessageView]
    total_count: int
    version: int
    cursor: str
    next: str | None = None


class ChatView(Struct, frozen=True):
    message_id: str
    role: Literal["assistant"]
    content: str
    created_at: str
    token_usage: Usage | None
    session_id: str
    user_message_id: str
    finish_reason: FinishReason | None
    finish_detail: str
    model: str | None
    status: Literal["complete", "cancelled"]
    version: int
    parts: list[PartView]
    calls: CallsState | None


class UploadView(Struct, frozen=True):
    """A file that is on disk: refer to it by `sha256` in a message before `expires_at`, or it is deleted."""

    sha256: str
    media_type: str
    bytes: int
    expires_at: str


class AcceptedView(Struct, frozen=True):
    """The request is on disk and its reply will be written: follow the session after `cursor`, or read its messages.

    `message_id` is the reply's, `version` that of the event which records the request.
    """

    session_id: str
    message_id: str
    user_message_id: str
    version: int
    cursor: str


class BranchView(Struct, frozen=True):
    """`message_id` is the last message of the selected branch."""

    session_id: str
    message_id: str
    version: int


class TicketView(Struct, frozen=True):
    """Both are null where the service has no keys: then no ticket is needed."""

    ticket: str | None
    expires_at: str | None


class CancelView(Struct, frozen=True, omit_defaults=True):
    """`closed_calls`: the tool calls of the reply that get no results any more, if it was those that were cancelled."""

    reply_id: str | None
    status: str | None = None
    closed_calls: list[str] = []


class ErasureView(Struct, frozen=True):
    """The session is deleted; its content is erased once forks have copied the texts that they refer to."""

    session_id: str
    status: Literal["erasing"]
    accepted_at: str


class ServerView(Struct, frozen=True, omit_defaults=True):
    """One of several model servers. `models`: how many it offers. `detail`: why it is not available, for auditors."""

    name: str
    available: bool
    state: Literal["available", "loading", "unavailable"]
    models: int
    detail: str | None = None


class HealthView(Struct, frozen=True):
    """`llm_servers`: absent if there is one model server."""

    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: str
    llm_server_available: bool
    database_connected: bool
    version: str
    provider: str
    detail: str | None = None
    llm_server_state: Literal["available", "loading", "unavailable"] = "available"
    llm_servers: list[ServerView] | UnsetType = UNSET


ReadinessState = Literal[
    "ready", "starting", "rebuilding", "failed", "outdated", "damaged", "unreadable", "unwritable", "draining"
]


class LivenessView(Struct, frozen=True):
    status: Literal["alive"]


class ReadinessView(Struct, frozen=True, omit_defaults=True):
    """`reason` says why it is not ready."""

    status: ReadinessState
    reason: str | None = None


class ModelView(Struct, frozen=True):
    """`suggested_max_new_tokens`: for replies that are to end by themselves."""

    id: str
    default: bool
    suggested_max_new_tokens: int


class ModelsView(Struct, frozen=True):
    """`models`: the default one first, then by name. `complete`: no others are accepted."""

    models: list[ModelView]
    complete: bool


class UsageRow(Struct, frozen=True, omit_defaults=True):
    replies: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    day: str | None = None
    owner: str | None = None
    model: str | None = None


class UsageView(Struct, frozen=True):
    by: Literal["day", "owner", "model"]
    usage: list[UsageRow]
