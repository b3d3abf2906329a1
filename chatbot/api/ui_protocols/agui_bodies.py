"""RunAgentInput and the messages of AG-UI 1.0 as types. Members that are unknown here are tolerated, as it asks for.

https://docs.ag-ui.com/spec/1.0
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from chatbot.api.request_bodies import JsonObject
from events.schema.parts import CALL_ID_MAX_CHARS, NAME_MAX_CHARS, PARTS_MAX

RESUMES_MAX = 100  # they are refused anyway
CONTEXTS_MAX = 100  # entries of one request

CallId = Annotated[str, Meta(min_length=1, max_length=CALL_ID_MAX_CHARS)]
FunctionName = Annotated[str, Meta(min_length=1, max_length=NAME_MAX_CHARS)]


class PartSource(Struct, frozen=True, rename="camel", omit_defaults=True):
    """`value`: Base64 if `type` is data, an address if it is url."""

    type: str
    value: str = ""
    mime_type: str | None = None


class ContentPart(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A text or an image; `binary` is the image of clients before 1.0."""

    type: str
    text: str | None = None
    source: PartSource | None = None
    mime_type: str | None = None
    data: str | None = None
    url: str | None = None


Content = str | Annotated[list[ContentPart], Meta(max_length=PARTS_MAX)]


class AguiCalledFunction(Struct, frozen=True):
    name: FunctionName
    arguments: str


class AgentCall(Struct, frozen=True):
    id: CallId
    function: AguiCalledFunction
    type: Literal["function"] = "function"


class _AgentMessage(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True, tag_field="role"):
    """Subclasses are the messages by role."""

    id: str


class AguiSystemMessage(_AgentMessage, frozen=True, tag="system"):
    content: str


class AguiDeveloperMessage(_AgentMessage, frozen=True, tag="developer"):
    """The same as a system message."""

    content: str


class AguiUserMessage(_AgentMessage, frozen=True, tag="user"):
    content: Content


class AguiAssistantMessage(_AgentMessage, frozen=True, tag="assistant"):
    content: str | None = None
    tool_calls: Annotated[list[AgentCall], Meta(max_length=PARTS_MAX)] | None = None


class AguiToolMessage(_AgentMessage, frozen=True, tag="tool"):
    tool_call_id: CallId
    content: Content
    error: str | None = None


class ReasoningMessage(_AgentMessage, frozen=True, tag="reasoning"):
    """What the model thought before the assistant's message that follows."""

    content: str


class ActivityMessage(_AgentMessage, frozen=True, tag="activity"):
    """Of the page alone: no model is sent it."""


AgentMessage = (
    AguiSystemMessage
    | AguiDeveloperMessage
    | AguiUserMessage
    | AguiAssistantMessage
    | AguiToolMessage
    | ReasoningMessage
    | ActivityMessage
)  # fmt: skip


class AgentTool(Struct, frozen=True):
    """A function of the client. `parameters`: a JSON schema."""

    name: FunctionName
    description: str = ""
    parameters: JsonObject | None = None


class ContextEntry(Struct, frozen=True):
    """Something that the model is told before the conversation."""

    description: str
    value: str


class RunAgentInput(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """`messages` is the whole conversation; without any, or with nothing to reply to, the answer is its history.

    `state` and `forwardedProps` are not read. A run that continues an interrupted one (`resume`) is refused.
    """

    thread_id: str
    run_id: Annotated[str, Meta(min_length=1, max_length=255)]
    parent_run_id: Annotated[str, Meta(max_length=255)] | None = None
    protocol_version: str | None = None
    messages: list[AgentMessage]
    tools: list[AgentTool] | None = None
    context: Annotated[list[ContextEntry], Meta(max_length=CONTEXTS_MAX)] | None = None
    state: Raw | UnsetType = UNSET
    forwarded_props: Raw | UnsetType = UNSET
    resume: Annotated[list[Raw], Meta(max_length=RESUMES_MAX)] | None = None


class AguiEvent(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """An event of a run, with the members of its type; `agui_event_view.py` encodes them piece by piece."""

    type: Literal[
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "REASONING_START",
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "REASONING_END",
        "TOOL_CALL_START",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_END",
        "MESSAGES_SNAPSHOT",
        "RUN_FINISHED",
        "RUN_ERROR",
    ]
    thread_id: str | None = None
    run_id: str | None = None
    parent_run_id: str | None = None
    protocol_version: str | None = None
    message_id: str | None = None
    role: Literal["assistant", "reasoning"] | None = None
    delta: str | None = None
    tool_call_id: str | None = None
    tool_call_name: str | None = None
    parent_message_id: str | None = None
    messages: list[JsonObject] | None = None
    outcome: JsonObject | None = None
    usage: list[JsonObject] | None = None
    message: str | None = None
    code: str | None = None
