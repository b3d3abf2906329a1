"""Requests and messages of Vercel's AI SDK (UIMessage, ai 5 to 7) as types. Members that are unknown here are
tolerated: applications add their own.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from chatbot.api.request_bodies import JsonObject, ReplyBody
from events.schema.parts import CALL_ID_MAX_CHARS, NAME_MAX_CHARS, PARTS_MAX

UiRole = Literal["system", "user", "assistant"]


class UiPart(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A part of any type, with those of its members that are read here.

    `input` and `output` are not decoded: objects of any form would take many times their bytes in memory.

    `type` is text, reasoning, file, step-start, dynamic-tool, tool-<name> or another: those are of the client alone.
    """

    type: Annotated[str, Meta(max_length=200)]
    text: str | None = None
    state: str | None = None
    url: str | None = None
    media_type: str | None = None
    filename: str | None = None
    tool_name: Annotated[str, Meta(max_length=NAME_MAX_CHARS)] | None = None
    tool_call_id: Annotated[str, Meta(max_length=CALL_ID_MAX_CHARS)] | None = None
    input: Raw | UnsetType = UNSET
    output: Raw | UnsetType = UNSET
    error_text: str | None = None


class UiMessage(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`id` of a message that the service has written is the message's id in /api."""

    id: str
    role: UiRole
    parts: Annotated[list[UiPart], Meta(max_length=PARTS_MAX)]


class UiMessages(Struct, frozen=True):
    """A conversation, oldest message first: `initialMessages` of a chat. `session_id` is its id in /api."""

    id: str
    session_id: str
    messages: list[UiMessage]


class UiChatBody(ReplyBody, frozen=True, forbid_unknown_fields=False, omit_defaults=True, kw_only=True):
    """What DefaultChatTransport sends. `id` names the conversation: a session's id, or any name.

    The reply's parameters are as in POST /api/chat; clients add them with the option `body` of a transport.
    """

    id: str
    messages: Annotated[list[UiMessage], Meta(min_length=1)]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: str | None = None


class UiChunk(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A chunk of the stream, with the members of its type; `ui_chunk_view.py` encodes them piece by piece. No other
    types are sent: clients of the SDK fail at one that they do not know.
    """

    type: Literal[
        "start",
        "start-step",
        "text-start",
        "text-delta",
        "text-end",
        "reasoning-start",
        "reasoning-delta",
        "reasoning-end",
        "tool-input-start",
        "tool-input-delta",
        "tool-input-available",
        "tool-output-available",
        "tool-output-error",
        "finish-step",
        "finish",
        "abort",
        "error",
    ]
    message_id: str | None = None
    message_metadata: JsonObject | None = None
    id: str | None = None
    delta: str | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None
    dynamic: bool | None = None
    input_text_delta: str | None = None
    input: Any = None
    output: Any = None
    error_text: str | None = None
    finish_reason: Literal["stop", "length", "content-filter", "tool-calls", "other"] | None = None
    reason: str | None = None
