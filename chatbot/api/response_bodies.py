"""Response bodies as types. The OpenAPI document is made from the same types."""

from typing import Any, Literal, assert_never

from msgspec import Struct

from chatbot.api.streaming.frames import FinishReason
from chatbot.runtime.timestamps import timestamp
from chatbot.sessions.domain.state import State
from chatbot.sessions.replies.reply import Outcome, Reply
from chatbot.sessions.session_queries import MessageWithText, SessionWithMetadata
from events.catalogue import Usage
from events.parts import Media, Part, Parts, Reasoning, Refusal, Text, ToolCall, ToolResult, calls_of
from projections.folds.session import NEVER_US


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


class SessionView(Struct, frozen=True):
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


class SessionList(Struct, frozen=True, omit_defaults=True):
    sessions: list[SessionView]
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


PartView = Text | Reasoning | Refusal | ToolCall | ToolResultView | MediaView
CallsState = Literal["open", "answered", "closed"]


class MessageView(Struct, frozen=True):
    """`parts` is all that the message says, in order; `content` the text of those of type text."""

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


class CancelView(Struct, frozen=True, omit_defaults=True):
    reply_id: str | None
    status: str | None = None


class ErasureView(Struct, frozen=True):
    """The session is deleted; its content is erased once forks have copied the texts that they refer to."""

    session_id: str
    status: Literal["erasing"]
    accepted_at: str


class HealthView(Struct, frozen=True):
    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: str
    llm_server_available: bool
    database_connected: bool
    version: str
    provider: str
    detail: str | None = None


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
    id: str
    default: bool


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


def session_view(described: SessionWithMetadata, *, is_expired: bool = False) -> SessionView:
    session = described.session
    running, parameters = session.open_reply, described.settings.parameters
    return SessionView(
        session_id=session.session_id,
        created_at=timestamp(session.created_at_us),
        last_accessed=timestamp(session.accessed_at_us),
        expires_at=None if session.expires_at_us == NEVER_US else timestamp(session.expires_at_us),
        metadata=described.metadata,
        title=described.title,
        version=session.version,
        message_count=session.message_count,
        status="expired" if is_expired else "replying" if running or session.pending else "active",
        active_reply=running.reply_id if running else None,
        queued_replies=[waiting.reply_id for waiting in session.pending],
        system_prompt=described.settings.system_prompt,
        model=parameters.model,
        parameters=ParametersView(
            max_new_tokens=parameters.max_new_tokens,
            temperature=parameters.temperature,
            do_sample=parameters.do_sample,
            top_p=parameters.top_p,
            stop=list(parameters.stop),
            seed=parameters.seed,
            parallel_tool_calls=parameters.parallel_tool_calls,
            response_format=parameters.response_format,
            reasoning_effort=parameters.reasoning_effort,
            extra_body=parameters.extra_body,
            send_reasoning=parameters.send_reasoning,
        ),
    )


def state_view(state: State) -> SessionView:
    return session_view(SessionWithMetadata(state.session, state.metadata, state.title, state.settings))


def message_view(message: MessageWithText, session_id: str, prefix: str = "") -> MessageView:
    """`prefix` is the path under which a proxy publishes the service."""
    row = message.row
    return MessageView(
        message_id=row.message_id,
        session_id=session_id,
        role=row.role,  # type: ignore[arg-type]  # the log holds no other roles
        content=message.content,
        created_at=timestamp(row.created_at_us),
        token_usage=message.usage,
        parent_id=row.parent_id,
        status=row.status,  # type: ignore[arg-type]  # one of these words
        finish_reason=message.finish_reason,  # type: ignore[arg-type]  # as it was recorded: one of these words
        finish_detail=message.finish_detail,
        model=message.model,
        siblings=list(row.siblings),
        parts=part_views(message.parts, message.content, session_id, prefix),
        calls=row.calls,  # type: ignore[arg-type]  # one of these words
    )


def part_views(parts: Parts, content: str, session_id: str, prefix: str) -> list[PartView]:
    """The parts of a message of the session, recorded as `parts` or, where it is one text, as `content` alone."""
    if not parts:
        return [Text(content)] if content else []
    return [_part_view(part, session_id, prefix) for part in parts]


def _part_view(part: Part, session_id: str, prefix: str) -> PartView:
    match part:
        case Text() | Reasoning() | Refusal() | ToolCall():
            return part
        case Media():
            return _media_view(part, session_id, prefix)
        case ToolResult():
            nested = [one if isinstance(one, Text) else _media_view(one, session_id, prefix) for one in part.parts]
            return ToolResultView(part.call_id, nested, part.is_error)
        case _:
            assert_never(part)


def _media_view(media: Media, session_id: str, prefix: str) -> MediaView:
    url = f"{prefix}/api/media/{media.sha256}?session_id={session_id}"
    return MediaView(media.sha256, media.media_type, media.bytes, url, media.name)


def chat_view(session_id: str, reply: Reply, outcome: Outcome) -> ChatView:
    return ChatView(
        message_id=reply.reply_id,
        role="assistant",
        content=outcome.content,
        created_at=timestamp(outcome.created_at_us),
        token_usage=outcome.usage,
        session_id=session_id,
        user_message_id=reply.message_id,
        finish_reason=outcome.finish_reason,  # type: ignore[arg-type]  # as above
        finish_detail=outcome.finish_detail,
        model=outcome.model,
        status="complete" if outcome.status == "complete" else "cancelled",
        version=outcome.version,
        parts=part_views(outcome.parts, outcome.content, session_id, prefix=""),  # no model sends files
        calls="open" if outcome.status == "complete" and calls_of(outcome.parts) else None,
    )
