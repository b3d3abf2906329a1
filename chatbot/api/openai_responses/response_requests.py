"""Requests for responses: what they may not ask for, the parameters of their replies, and what is recorded with them.
Pure.
"""

from typing import Any, TypeVar

from msgspec import Struct

from chatbot.api.json_checks import check_json, check_tools
from chatbot.api.openai_responses.create_bodies import InputTokensBody, ResponseBody, TextFormat
from chatbot.api.openai_responses.object_ids import ResponseKey, read_conversation_id, read_response_id
from chatbot.api.openai_responses.response_objects import DELTA_RULE
from chatbot.api.problems import RequestFault
from chatbot.api.request_bodies import JsonObject
from chatbot.api.requests import check_text, decode_body
from chatbot.api.v1.transcript_checks import check_fields
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.sessions.domain.rejections import SessionNotFound
from events.catalogue import Parameters
from events.schema.parameters import ResponseOptions

FUNCTIONS_ONLY = "is not supported: tools are functions of yours, whose calls you answer"
ONE_PLACE = "goes with no previous_response_id: a response has one place"
NO_PROMPTS = "is not supported: send instructions and input"
NO_COMPACTION = "is not supported: nothing is compacted; truncation auto leaves out the oldest messages"
NO_MODERATION = "is not supported: the service moderates nothing"
NO_LOGPROBS = "is not supported: leave it out"
KEPT_ITEMS = "must not be false in a conversation, which keeps its items"
KEPT_RESPONSE = "needs a response that is kept: leave store out"
LOGPROBS = "message.output_text.logprobs"

Body = TypeVar("Body", ResponseBody, InputTokensBody)


class Place(Struct, frozen=True):
    """Where a response belongs: a session, and the reply after which it comes; both None: a session of its own."""

    session_id: str | None = None
    previous: ResponseKey | None = None


def read_response(raw: bytes, kind: type[Body]) -> Body:
    """Raises RequestFault, also as check_fields, before objects are made."""
    check_fields(raw, "input", "instructions")
    return decode_body(raw, kind)


def check_response(body: ResponseBody) -> None:
    """Refuse what would otherwise be missing from the answer without a word. Raises RequestFault."""
    for name, is_asked, why in (
        ("prompt", body.prompt is not None, NO_PROMPTS),
        ("context_management", bool(body.context_management), NO_COMPACTION),
        ("moderation", body.moderation is not None, NO_MODERATION),
        ("top_logprobs", bool(body.top_logprobs), NO_LOGPROBS),
        ("include", LOGPROBS in (body.include or ()), NO_LOGPROBS),
    ):
        if is_asked:
            raise unsupported(why, f"$.{name}")
    if body.input is None or body.input == []:
        raise RequestFault("must have something to answer", "$.input")
    if body.conversation is not None and body.previous_response_id is not None:
        raise RequestFault(ONE_PLACE, "$.conversation")
    if body.store is False and body.conversation is not None:
        raise RequestFault(KEPT_ITEMS, "$.store")
    if body.store is False and body.background:
        raise RequestFault(KEPT_RESPONSE, "$.background")


def unsupported(why: str, path: str) -> RequestFault:
    return RequestFault(why, path, kind="unsupported", status=422, title="Not supported")


def _place_of(conversation: str | None, previous_response_id: str | None) -> Place:
    if conversation is not None:
        session_id = read_conversation_id(conversation)
        if session_id is None:
            raise SessionNotFound(conversation[:64])
        return Place(session_id)
    if previous_response_id is not None:
        key = read_response_id(previous_response_id)
        if key is None:
            raise SessionNotFound(previous_response_id[:64])
        return Place(key.session_id, key)
    return Place()


def read_place(body: ResponseBody | InputTokensBody) -> Place:
    """Raises SessionNotFound for what no id is."""
    named = body.conversation
    return _place_of(named if named is None or isinstance(named, str) else named.id, body.previous_response_id)


def response_parameters(
    body: ResponseBody, limits: ChatSettings, default_tokens: int, input_messages: int, *, takes_tools: bool = True
) -> Parameters:
    """The parameters that the request gives. `default_tokens`: of a request that gives no number. `input_messages`: as
    in ResponseOptions. Where the model does not take tools, those that it may leave uncalled are left out.
    Raises RequestFault.
    """
    tools, choice = checked_tools(body, limits)
    is_required = isinstance(choice, dict) or choice == "required"
    if is_required and not tools:
        raise RequestFault("asks for a tool, but tools has none", "$.tool_choice")
    is_sent = bool(tools) and (takes_tools or is_required)
    effort = body.reasoning.effort if body.reasoning is not None else None
    if effort:
        check_text(effort, "$.reasoning.effort", len(effort))
    verbosity = body.text.verbosity if body.text is not None else None
    if verbosity:
        check_text(verbosity, "$.text.verbosity", len(verbosity))
    extra = {
        "presence_penalty": body.presence_penalty or None,
        "frequency_penalty": body.frequency_penalty or None,
        "verbosity": verbosity,
    }
    return Parameters(
        max_new_tokens=min(body.max_output_tokens or default_tokens, limits.max_tokens_ceiling),
        temperature=body.temperature,
        top_p=body.top_p,
        model=body.model,
        tools=tools if is_sent else None,
        tool_choice=choice if is_sent else None,
        parallel_tool_calls=body.parallel_tool_calls if is_sent else None,
        response_format=_response_format(body.text.format if body.text is not None else None, limits),
        reasoning_effort=effort or None,
        extra_body={name: value for name, value in extra.items() if value is not None} or None,
        whole_context=body.truncation != "auto",
        response=_options(body, input_messages),
    )


def _options(body: ResponseBody, input_messages: int) -> ResponseOptions:
    others: dict[str, Any] = {
        "metadata": body.metadata,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "prompt_cache_key": body.prompt_cache_key,
        "safety_identifier": body.safety_identifier,
        "user": body.user,
        "reasoning_summary": body.reasoning.summary if body.reasoning is not None else None,
    }
    kept = {name: value for name, value in others.items() if value}
    check_json(kept, "$", 65_536)
    return ResponseOptions(
        delta_rule=DELTA_RULE,
        input_messages=input_messages,
        previous_response_id=body.previous_response_id,
        in_conversation=body.conversation is not None,
        background=bool(body.background),
        is_stored=body.store is not False,
        others=kept,
    )


def checked_tools(
    body: ResponseBody | InputTokensBody, limits: ChatSettings
) -> tuple[list[JsonObject] | None, str | JsonObject | None]:
    """Tools and the choice of one, as model servers are sent them. Raises RequestFault."""
    if body.tools and len(body.tools) > limits.tools_max:
        raise RequestFault(f"has {len(body.tools)} tools; at most {limits.tools_max} are allowed", "$.tools")
    tools: list[JsonObject] = []
    for index, tool in enumerate(body.tools or ()):
        if tool.get("type") != "function":
            raise unsupported(f"{str(tool.get('type'))[:64]} {FUNCTIONS_ONLY}", f"$.tools[{index}].type")
        named = {
            name: tool[name] for name in ("name", "description", "parameters", "strict") if tool.get(name) is not None
        }
        tools.append({"type": "function", "function": named})
    if tools:
        check_tools(tools, limits)
    choice = body.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
            raise unsupported("must be none, auto, required, or a function by its name", "$.tool_choice")
        choice = {"type": "function", "function": {"name": choice["name"]}}
    if choice is not None:
        check_json(choice, "$.tool_choice", limits.tools_max_bytes)
    return tools or None, choice


def _response_format(wanted: TextFormat | None, limits: ChatSettings) -> JsonObject | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    if wanted.schema is None or not wanted.name:
        raise RequestFault("needs a name and a schema", "$.text.format")
    named = {"name": wanted.name, "schema": wanted.schema, "description": wanted.description, "strict": wanted.strict}
    schema = {name: value for name, value in named.items() if value is not None}
    check_json(schema, "$.text.format", limits.response_format_max_bytes)
    return {"type": "json_schema", "json_schema": schema}
