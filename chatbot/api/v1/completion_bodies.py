"""Bodies of POST /v1/chat/completions as types. Fields that are unknown here are tolerated: clients send ever more.

`completion_requests.py` checks them; the OpenAPI document is made from the same types.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from chatbot.api.request_bodies import JsonObject, Model, Stops, Temperature, TopP
from events.schema.parts import CALL_ID_MAX_CHARS, NAME_MAX_CHARS, PARTS_MAX

MaxTokens = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
CallId = Annotated[str, Meta(min_length=1, max_length=CALL_ID_MAX_CHARS)]
FunctionName = Annotated[str, Meta(min_length=1, max_length=NAME_MAX_CHARS)]
Stop = Annotated[str, Meta(max_length=200)]


class _ContentPart(Struct, frozen=True, tag_field="type"):
    """Subclasses are the kinds of parts of a message's content."""


class TextPart(_ContentPart, frozen=True, tag="text"):
    text: str


class RefusalPart(_ContentPart, frozen=True, tag="refusal"):
    refusal: str


class ImageAddress(Struct, frozen=True):
    """`url` is data:<type>;base64,<data>. `detail` is accepted and not kept."""

    url: str
    detail: str | None = None


class ImagePart(_ContentPart, frozen=True, tag="image_url"):
    image_url: ImageAddress


class AudioPart(_ContentPart, frozen=True, tag="input_audio"):
    """Refused: messages have no audio."""


class FilePart(_ContentPart, frozen=True, tag="file"):
    """Refused: the only files are images."""


class VideoPart(_ContentPart, frozen=True, tag="video_url"):
    """Refused: the only files are images."""


Content = Annotated[list[TextPart | ImagePart | AudioPart | FilePart | VideoPart], Meta(max_length=PARTS_MAX)]
TextContent = Annotated[list[TextPart], Meta(max_length=PARTS_MAX)]
ReplyContent = Annotated[list[TextPart | RefusalPart], Meta(max_length=PARTS_MAX)]


class _Message(Struct, frozen=True, tag_field="role", kw_only=True):
    """Subclasses are the messages by role."""


class SystemMessage(_Message, frozen=True, tag="system"):
    content: str | TextContent | None = None


class DeveloperMessage(_Message, frozen=True, tag="developer"):
    """The same as a system message."""

    content: str | TextContent | None = None


class UserMessage(_Message, frozen=True, tag="user"):
    content: str | Content | None = None


class CalledFunction(Struct, frozen=True):
    """`arguments` are as the model wrote them: not necessarily valid JSON."""

    name: FunctionName
    arguments: str | None = None


class SentCall(Struct, frozen=True):
    """A tool call of an earlier reply."""

    id: CallId
    function: CalledFunction
    type: Literal["function"] = "function"


class AssistantMessage(_Message, frozen=True, tag="assistant"):
    """An earlier reply. `reasoning` is another name of `reasoning_content`."""

    content: str | ReplyContent | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[SentCall], Meta(max_length=PARTS_MAX)] | None = None
    function_call: CalledFunction | None = None


class ToolMessage(_Message, frozen=True, tag="tool"):
    """What a tool gave for the call `tool_call_id`."""

    tool_call_id: CallId
    content: str | Content | None = None


class FunctionMessage(_Message, frozen=True, tag="function"):
    """Refused: the old form of a tool message."""

    name: str | None = None
    content: str | None = None


MessageBody = (
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
)  # fmt: skip


class StreamOptions(Struct, frozen=True):
    """`include_obfuscation` is accepted and does nothing: no padding is sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class CompletionBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation to go on with, and the parameters of the reply.

    Refused: `n` above 1, `logprobs`, `functions`, `function_call`, `audio`, `web_search_options`, and modalities other
    than text. Accepted without effect: `store`, `service_tier`, `prompt_cache_key`, `prediction` and the like.
    """

    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    model: Model
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | Stops | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    response_format: JsonObject | None = None
    reasoning_effort: Annotated[str, Meta(max_length=32)] | None = None
    verbosity: str | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: JsonObject | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    metadata: JsonObject | None = None
    user: str | None = None
    safety_identifier: str | None = None
    store: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None
