"""Request bodies as types. `requests.py` reads and checks them; the OpenAPI document is made from the same types."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from chatbot.api.part_bodies import PartBody
from events.record import VERSION_MAX

STOPS_MAX = 8
MessageId = Annotated[str, Meta(max_length=64)]


MaxNewTokens = Annotated[int, Meta(ge=1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Stops = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=STOPS_MAX)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Model = Annotated[str, Meta(min_length=1, max_length=200)]
JsonObject = dict[str, Any]
ToolChoice = Annotated[str, Meta(min_length=1, max_length=64)] | JsonObject
ReasoningEffort = Annotated[str, Meta(min_length=1, max_length=32)]  # servers have words of their own


class ParametersBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A session's defaults of the parameters of replies; null removes one. Tools belong to requests."""

    max_new_tokens: MaxNewTokens | UnsetType | None = UNSET
    temperature: Temperature | UnsetType | None = UNSET
    do_sample: bool | UnsetType | None = UNSET
    top_p: TopP | UnsetType | None = UNSET
    stop: Stops | UnsetType | None = UNSET
    seed: Seed | UnsetType | None = UNSET
    parallel_tool_calls: bool | UnsetType | None = UNSET
    response_format: JsonObject | UnsetType | None = UNSET
    reasoning_effort: ReasoningEffort | UnsetType | None = UNSET
    extra_body: JsonObject | UnsetType | None = UNSET
    send_reasoning: bool | UnsetType | None = UNSET


class CreateSessionBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    metadata: dict[str, Any] | None = None
    title: str | None = None
    system_prompt: str | None = None
    timeout_hours: Annotated[float, Meta(ge=0, le=876_000)] | None = None
    model: Model | None = None
    parameters: ParametersBody | None = None


class ChangeSessionBody(Struct, frozen=True, forbid_unknown_fields=True):
    metadata: dict[str, Any] | UnsetType = UNSET
    title: str | UnsetType | None = UNSET
    system_prompt: str | UnsetType | None = UNSET
    model: Model | UnsetType | None = UNSET
    parameters: ParametersBody | UnsetType | None = UNSET
    pinned: bool | UnsetType = UNSET


class ReadBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`version`: everything up to this version of the session has been shown; None: up to now."""

    version: Annotated[int, Meta(ge=0, le=VERSION_MAX)] | None = None


class TicketBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`session_id`: only for this session's feed and files."""

    session_id: Annotated[str, Meta(max_length=64)] | None = None


class ReplyBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Parameters of one reply, and what to do if another reply is running."""

    max_new_tokens: MaxNewTokens | None = None
    temperature: Temperature | None = None
    do_sample: bool | None = None
    top_p: TopP | None = None
    stop: Stops | None = None
    seed: Seed | None = None
    model: Model | None = None
    tools: list[JsonObject] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: JsonObject | None = None
    reasoning_effort: ReasoningEffort | None = None
    extra_body: JsonObject | None = None
    send_reasoning: bool | None = None
    on_busy: Literal["queue", "reject", "interrupt"] = "queue"


class ChatBody(ReplyBody, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    session_id: str
    message: str | list[PartBody]
    role: Literal["user", "tool"] = "user"
    parent_id: MessageId | UnsetType | None = UNSET


class RegenerateBody(ReplyBody, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    message_id: MessageId | None = None


class BranchBody(Struct, frozen=True, forbid_unknown_fields=True):
    message_id: MessageId


class ForkBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    message_id: MessageId | None = None


class CancelBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`reply_id`: the reply to cancel, running or queued; None: the running one, whichever it is."""

    reply_id: MessageId | None = None
