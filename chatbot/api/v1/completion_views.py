"""Answers of /v1 as types, and a complete reply in OpenAI's form. The OpenAPI document is made from the same types."""

from typing import Any, Literal, assert_never

from msgspec import Struct

from chatbot.sessions.replies.reply import Outcome
from events.catalogue import Usage
from events.schema.parts import Media, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult, parts_of

MICROSECONDS = 1_000_000
ID_PREFIX = "chatcmpl-"

FinishWord = Literal["stop", "length", "tool_calls", "content_filter"]


class ModelObject(Struct, frozen=True):
    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelObjects(Struct, frozen=True):
    """The default model first, then by name."""

    data: list[ModelObject]
    object: Literal["list"] = "list"


class CalledFunctionView(Struct, frozen=True):
    name: str
    arguments: str


class ToolCallView(Struct, frozen=True):
    id: str
    function: CalledFunctionView
    type: Literal["function"] = "function"


class CompletionMessage(Struct, frozen=True, omit_defaults=True):
    """A reply. `content` is null if it is nothing but tool calls, or a refusal. Its reasoning is in one of two fields:
    see v1.reasoning_field.
    """

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    annotations: list[Any]
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallView] | None = None


class CompletionChoice(Struct, frozen=True):
    index: int
    message: CompletionMessage
    logprobs: None
    finish_reason: FinishWord


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(Struct, frozen=True):
    reasoning_tokens: int


class CompletionUsage(Struct, frozen=True, omit_defaults=True):
    """Tokens, as the model server counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class CompletionView(Struct, frozen=True, omit_defaults=True):
    """A whole reply. `usage` is left out if the model server does not tell."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class CalledFunctionDelta(Struct, frozen=True, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, frozen=True, omit_defaults=True):
    """The first one of a call has its id and name. `index` says which call its arguments continue."""

    index: int
    function: CalledFunctionDelta
    id: str | None = None
    type: Literal["function"] | None = None


class CompletionDelta(Struct, frozen=True, omit_defaults=True):
    """What is new. The first one of a reply has the role."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(Struct, frozen=True):
    """`finish_reason` is null until the last one, whose delta is empty."""

    index: int
    delta: CompletionDelta
    logprobs: None
    finish_reason: FinishWord | None


class CompletionChunk(Struct, frozen=True, omit_defaults=True):
    """A piece of a streamed reply. With `include_usage` the last one has no choices, and the others `usage` null.
    `chunk_view.py` encodes them piece by piece.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None


def completion_id(reply_id: str) -> str:
    return f"{ID_PREFIX}{reply_id}"


def completion_view(reply_id: str, outcome: Outcome, model: str, reasoning_field: str) -> CompletionView:
    """A complete reply. `model`: the name of the model, if the outcome does not know it."""
    message = _message(outcome, reasoning_field)
    choice = CompletionChoice(0, message, None, finish_word(outcome))
    created = outcome.created_at_us // MICROSECONDS
    usage = usage_view(outcome.usage) if outcome.usage is not None else None
    return CompletionView(
        completion_id(reply_id), "chat.completion", created, outcome.model or model, [choice], usage=usage
    )


def finish_word(outcome: Outcome) -> FinishWord:
    """Why the reply ended, in a word that clients know."""
    match outcome.finish_reason:
        case "length" | "tool_calls" | "content_filter" as word:
            return word
        case _:
            return "stop"


def usage_view(usage: Usage) -> CompletionUsage:
    return CompletionUsage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        PromptTokensDetails(usage.cached_tokens) if usage.cached_tokens is not None else None,
        CompletionTokensDetails(usage.reasoning_tokens) if usage.reasoning_tokens is not None else None,
    )


def _message(outcome: Outcome, reasoning_field: str) -> CompletionMessage:
    texts: list[str] = []
    reasoning: list[str] = []
    refusals: list[str] = []
    calls: list[ToolCallView] = []
    for part in parts_of(outcome):
        match part:
            case Text():
                texts.append(part.text)
            case Reasoning():
                reasoning.append(part.text)
            case Refusal():
                refusals.append(part.text)
            case ToolCall():
                calls.append(ToolCallView(part.call_id, CalledFunctionView(part.name, part.arguments)))
            case ToolResult() | Media():
                pass  # no reply has them
            case Redacted():
                pass  # a repeated request is answered with what is left
            case _:
                assert_never(part)
    fields = {reasoning_field: "".join(reasoning)} if reasoning else {}
    return CompletionMessage(
        role="assistant",
        content="".join(texts) if texts or not (calls or refusals) else None,
        refusal="".join(refusals) if refusals else None,
        annotations=[],
        tool_calls=calls or None,
        **fields,
    )
