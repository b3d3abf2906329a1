"""Responses as types, and a reply as a response. Pure. The OpenAPI document is made from the same types."""

from typing import Any, Literal

from msgspec import Struct

from chatbot.api.openai_responses.item_views import Item, output_items
from chatbot.api.openai_responses.object_ids import conversation_id, response_id
from chatbot.api.streaming.outcome_details import outcome_detail
from chatbot.api.v1.completion_views import MICROSECONDS
from chatbot.sessions.replies.reply import Outcome
from events.catalogue import Parameters, Usage
from events.schema.parameters import ResponseOptions
from events.schema.parts import parts_of

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
DELTA_RULE = 1  # the newest rule of delta_rules.py: it is recorded with each response
NO_OPTIONS = ResponseOptions(DELTA_RULE)  # of a reply that another API has requested
TERMINAL: dict[str, ResponseStatus] = {"failed": "failed", "interrupted": "failed", "cancelled": "cancelled"}
INCOMPLETE: dict[str | None, Literal["max_output_tokens", "content_filter"]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}  # why a response is incomplete, by the finish reason of a reply that the model has ended
FAULTS = {"llm_overloaded": "rate_limit_exceeded"}  # the codes of OpenAI's API; of all others it is server_error


class ConversationId(Struct, frozen=True):
    id: str


class ResponseFault(Struct, frozen=True):
    code: str
    message: str


class IncompleteDetails(Struct, frozen=True):
    reason: Literal["max_output_tokens", "content_filter"]


class ReasoningView(Struct, frozen=True):
    effort: str | None
    summary: str | None


class TextView(Struct, frozen=True):
    format: dict[str, Any]
    verbosity: str


class InputTokensDetails(Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True):
    """Tokens, as the model server counts them."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseView(Struct, frozen=True, kw_only=True):
    """A response. Times are Unix seconds. All fields are always there, null where they are unset."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    background: bool
    conversation: ConversationId | None
    error: ResponseFault | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[Any]
    parallel_tool_calls: bool
    presence_penalty: float
    frequency_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningView
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: TextView
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class DeletedResponse(Struct, frozen=True):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class InputTokens(Struct, frozen=True):
    """An estimate: only the model server counts tokens exactly."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class ConversationView(Struct, frozen=True):
    """`created_at`: Unix seconds. Values of `metadata` that are no texts are shown as JSON."""

    id: str
    created_at: int
    metadata: dict[str, str]
    object: Literal["conversation"] = "conversation"


class DeletedConversation(Struct, frozen=True):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


class ResponseEvent(Struct, frozen=True):
    """An event of a stream; `type` says which fields it has besides, as OpenAI's API documents them."""

    type: str
    sequence_number: int


class RequestedResponse(Struct, frozen=True):
    """What of a response is known when it is requested. `created_at_us`: Unix microseconds."""

    session_id: str
    reply_id: str
    created_at_us: int
    model: str
    parameters: Parameters

    @property
    def id(self) -> str:
        return response_id(self.session_id, self.reply_id)

    @property
    def options(self) -> ResponseOptions:
        return self.parameters.response or NO_OPTIONS


def response_view(
    requested: RequestedResponse, outcome: Outcome | None, *, status: ResponseStatus = "in_progress"
) -> ResponseView:
    """The response as it is; without an `outcome` it has that `status`, and no output yet."""
    parameters, options, others = requested.parameters, requested.options, requested.options.others
    error, incomplete, completed_at = None, None, None
    output: list[Item] = []
    if outcome is not None:
        status, incomplete = _end_of(outcome)
        if status == "failed":
            error = ResponseFault(FAULTS.get(outcome.cause, "server_error"), outcome_detail(outcome))
        if outcome.status == "complete" and outcome.duration_us is not None:
            completed_at = (outcome.created_at_us + outcome.duration_us) // MICROSECONDS
        output = output_items(requested.reply_id, parts_of(outcome), is_complete=status == "completed")
    extra = parameters.extra_body or {}
    return ResponseView(
        id=requested.id,
        created_at=requested.created_at_us // MICROSECONDS,
        completed_at=completed_at,
        status=status,
        background=options.background,
        conversation=ConversationId(conversation_id(requested.session_id)) if options.in_conversation else None,
        error=error,
        incomplete_details=incomplete,
        instructions=parameters.instructions,
        max_output_tokens=others.get("max_output_tokens"),
        max_tool_calls=others.get("max_tool_calls"),
        metadata=others.get("metadata", {}),
        model=(outcome.model if outcome is not None else None) or requested.model,
        output=output,
        parallel_tool_calls=parameters.parallel_tool_calls is not False,
        presence_penalty=extra.get("presence_penalty", 0),
        frequency_penalty=extra.get("frequency_penalty", 0),
        previous_response_id=options.previous_response_id,
        prompt_cache_key=others.get("prompt_cache_key"),
        reasoning=ReasoningView(parameters.reasoning_effort, others.get("reasoning_summary")),
        safety_identifier=others.get("safety_identifier"),
        service_tier="default",
        store=options.is_stored,
        temperature=1 if parameters.temperature is None else parameters.temperature,
        text=TextView(_text_format(parameters.response_format), extra.get("verbosity") or "medium"),
        tool_choice=_tool_choice(parameters.tool_choice),
        tools=[_tool(tool) for tool in parameters.tools or ()],
        top_logprobs=0,
        top_p=1 if parameters.top_p is None else parameters.top_p,
        truncation="disabled" if parameters.whole_context else "auto",
        usage=usage_view(outcome.usage) if outcome is not None and outcome.usage is not None else None,
        user=others.get("user"),
    )


def _end_of(outcome: Outcome) -> tuple[ResponseStatus, IncompleteDetails | None]:
    if outcome.status != "complete":
        return TERMINAL.get(outcome.status, "failed"), None
    reason = INCOMPLETE.get(outcome.finish_reason)
    return ("completed", None) if reason is None else ("incomplete", IncompleteDetails(reason))


def usage_view(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        usage.prompt_tokens,
        InputTokensDetails(usage.cached_tokens or 0),
        usage.completion_tokens,
        OutputTokensDetails(usage.reasoning_tokens or 0),
        usage.total_tokens,
    )


def _text_format(response_format: dict[str, Any] | None) -> dict[str, Any]:
    """As a request for a response writes it: the schema is not in an object of its own."""
    if response_format is None:
        return {"type": "text"}
    schema = response_format.get("json_schema")
    if not isinstance(schema, dict):
        return {"type": response_format.get("type", "text")}
    named = {"name": schema.get("name"), "schema": schema.get("schema"), "strict": schema.get("strict")}
    return {"type": "json_schema", "description": schema.get("description"), **named}


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any]:
    if isinstance(choice, dict):
        function = choice.get("function")
        return {"type": "function", "name": function.get("name") if isinstance(function, dict) else None}
    return choice or "auto"


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    known = function if isinstance(function, dict) else {}
    fields = {name: known.get(name) for name in ("name", "description", "parameters", "strict")}
    return {"type": "function", **fields}
