"""Bodies of requests for responses and conversations as types. Fields that are unknown here are tolerated: clients send
ever more. `response_requests.py` checks them; the OpenAPI document is made from the same types.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from chatbot.api.request_bodies import JsonObject, Model, Temperature, TopP
from chatbot.api.v1.completion_bodies import CallId, FunctionName, Penalty
from events.schema.parts import PARTS_MAX

ITEMS_MAX = 20  # that one request may add to a conversation without asking for a response, as at OpenAI

ObjectId = Annotated[str, Meta(max_length=128)]
MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
ResponseMetadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]
MaxOutputTokens = Annotated[int, Meta(ge=1)]
Word = Annotated[str, Meta(max_length=64)]
Items = list[Raw]


class _SentPart(Struct, frozen=True, tag_field="type"):
    """Subclasses are the kinds of parts of an item's content."""


class InputText(_SentPart, frozen=True, tag="input_text"):
    text: str


class PlainText(_SentPart, frozen=True, tag="text"):
    text: str


class OutputText(_SentPart, frozen=True, tag="output_text"):
    text: str


class SentRefusal(_SentPart, frozen=True, tag="refusal"):
    refusal: str


class InputImage(_SentPart, frozen=True, tag="input_image"):
    """`image_url` is data:<type>;base64,<data>, or that of an item that was read. `detail` is accepted and not kept."""

    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class InputFile(_SentPart, frozen=True, tag="input_file"):
    """Refused: the only files are images."""


class InputAudio(_SentPart, frozen=True, tag="input_audio"):
    """Refused: messages have no audio."""


SentContent = Annotated[
    list[InputText | PlainText | OutputText | SentRefusal | InputImage | InputFile | InputAudio],
    Meta(max_length=PARTS_MAX),
]


class SentMessage(Struct, frozen=True):
    """A message. `type` may be left out."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | SentContent


class SentFunctionCall(Struct, frozen=True):
    """A call of an earlier response. `arguments` are as the model wrote them."""

    call_id: CallId
    name: FunctionName
    arguments: str = ""


class SentResult(Struct, frozen=True):
    """The result of the call `call_id`."""

    call_id: CallId
    output: str | SentContent


class ReasoningPart(Struct, frozen=True):
    text: str = ""


class SentReasoning(Struct, frozen=True):
    """Earlier reasoning; it is kept if it has content."""

    content: Annotated[list[ReasoningPart], Meta(max_length=PARTS_MAX)] | None = None


class ConversationReference(Struct, frozen=True):
    id: ObjectId


class ReasoningConfig(Struct, frozen=True):
    """`summary` has no effect: reasoning is sent as the model wrote it."""

    effort: Word | None = None
    summary: Word | None = None
    generate_summary: Word | None = None


class TextFormat(Struct, frozen=True):
    """text, json_object, or json_schema with a `name` and a `schema`."""

    type: Literal["text", "json_object", "json_schema"]
    name: Word | None = None
    schema: JsonObject | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, frozen=True):
    format: TextFormat | None = None
    verbosity: Word | None = None


class ResponseBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a response is to answer, and the parameters of the reply.

    Refused: built-in tools, files, `prompt`, `context_management`, `moderation`, `top_logprobs`, and `include` of log
    probabilities. Accepted without effect: `service_tier`, `prompt_cache_key`, `stream_options` and the like.
    """

    model: Model
    input: str | Items | None = None
    instructions: str | None = None
    conversation: ObjectId | ConversationReference | None = None
    previous_response_id: ObjectId | None = None
    background: bool | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: Any = None
    metadata: ResponseMetadata | None = None
    max_output_tokens: MaxOutputTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    truncation: Literal["auto", "disabled"] | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None
    service_tier: Word | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None


class InputTokensBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request for a response whose size is to be told; other fields have no effect."""

    model: Model | None = None
    input: str | Items | None = None
    instructions: str | None = None
    conversation: ObjectId | ConversationReference | None = None
    previous_response_id: ObjectId | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None


class CreateConversationBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation with its first items."""

    items: Items | None = None
    metadata: ResponseMetadata | None = None


class ChangeConversationBody(Struct, frozen=True, kw_only=True):
    """The conversation's metadata, all of it."""

    metadata: ResponseMetadata


class CreateItemsBody(Struct, frozen=True, kw_only=True):
    """Items to add after the newest one."""

    items: Items
