"""Requests for completions: what they may not ask for, and the parameters of their replies. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from chatbot.api.json_checks import RESERVED_FIELDS, check_extra_body, check_json, check_tools
from chatbot.api.problems import RequestFault
from chatbot.api.requests import check_text, decode_body
from chatbot.api.v1.completion_bodies import CompletionBody
from chatbot.api.v1.transcript_checks import check_fields
from chatbot.config.sections.chat_settings import ChatSettings
from events.catalogue import Parameters

ONE_REPLY = "must be 1: a request gets one reply"
NO_LOGPROBS = "is not supported: leave it out"
OLD_FUNCTIONS = "is the old form, which is not supported: send tools and tool_choice"
NO_AUDIO = "is not supported: replies are text"
NO_SEARCH = "is not supported: the service searches nothing"
NEUTRAL: Mapping[str, Any] = {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "verbosity": None}
_FIELDS = frozenset(CompletionBody.__struct_fields__)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_completion(raw: bytes) -> CompletionBody:
    """Raises RequestFault, also as check_fields, before objects are made."""
    check_fields(raw, "messages")
    return decode_body(raw, CompletionBody)


def check_completion(body: CompletionBody, messages_max: int) -> None:
    """Refuse what would otherwise be missing from the answer without a word. Raises RequestFault."""
    for name, is_asked, why in (
        ("n", body.n not in (None, 1), ONE_REPLY),
        ("logprobs", bool(body.logprobs), NO_LOGPROBS),
        ("top_logprobs", bool(body.top_logprobs), NO_LOGPROBS),
        ("functions", body.functions is not None, OLD_FUNCTIONS),
        ("function_call", body.function_call is not None, OLD_FUNCTIONS),
        ("modalities", bool(set(body.modalities or ()) - {"text"}), NO_AUDIO),
        ("audio", body.audio is not None, NO_AUDIO),
        ("web_search_options", body.web_search_options is not None, NO_SEARCH),
    ):
        if is_asked:
            kind, title = "unsupported", "Not supported"
            raise RequestFault(why, f"$.{name}", kind=kind, status=422, title=title)
    if len(body.messages) > messages_max:
        raise RequestFault(f"has {len(body.messages)} messages; at most {messages_max} are allowed", "$.messages")
    if not body.tools and (isinstance(body.tool_choice, dict) or body.tool_choice == "required"):
        raise RequestFault("asks for a tool, but tools has none", "$.tool_choice")


def completion_parameters(
    body: CompletionBody, raw: bytes, limits: ChatSettings, default_tokens: int, *, takes_tools: bool = True
) -> Parameters:
    """The parameters that the request gives. More tokens than one reply may have count as that many: `finish_reason`
    tells when they were too few. `default_tokens`: of a request that gives no number.

    Where the model does not take tools, those that it may leave uncalled are left out: front ends offer some with every
    message. `raw` is the body, from which fields without a name here are taken that chat.extra_body_fields allows by
    name.
    Raises RequestFault.
    """
    most = body.max_completion_tokens or body.max_tokens or default_tokens
    is_required = isinstance(body.tool_choice, dict) or body.tool_choice == "required"
    tools = body.tools or None if takes_tools or is_required else None
    response_format = body.response_format
    if response_format is not None and response_format.get("type") == "text":
        response_format = None  # what a reply is anyway
    if tools is not None:
        check_tools(tools, limits)
    if tools is not None and body.tool_choice is not None:
        check_json(body.tool_choice, "$.tool_choice", limits.tools_max_bytes)
    if response_format is not None:
        check_json(response_format, "$.response_format", limits.response_format_max_bytes)
    if body.reasoning_effort:
        check_text(body.reasoning_effort, "$.reasoning_effort", len(body.reasoning_effort))
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Parameters(
        max_new_tokens=min(most, limits.max_tokens_ceiling),
        temperature=body.temperature,
        top_p=body.top_p,
        stop=tuple(filter(None, stop)),
        seed=body.seed,
        model=body.model,
        tools=tools,
        tool_choice=body.tool_choice if tools is not None else None,
        parallel_tool_calls=body.parallel_tool_calls if tools is not None else None,
        response_format=response_format,
        reasoning_effort=body.reasoning_effort or None,
        extra_body=_extra_body(body, raw, limits) or None,
    )


def _extra_body(body: CompletionBody, raw: bytes, limits: ChatSettings) -> dict[str, Any]:
    """Fields that the model server gets as they are. Those that are not allowed are ignored, as OpenAI's API may have
    added them yesterday; so are values that ask for nothing."""
    allowed = frozenset(limits.extra_body_fields)
    named = {name: getattr(body, name) for name in NEUTRAL}
    extra = {name: value for name, value in named.items() if value is not None and value != NEUTRAL[name]}
    unknown = _members.decode(raw).items() if allowed - named.keys() else ()
    for name, value in unknown:
        is_allowed = (name in allowed or "*" in allowed) and name not in RESERVED_FIELDS
        if is_allowed and name not in _FIELDS and bytes(value) != b"null":
            extra[name] = decode_body(bytes(value), object)
    if extra:
        check_extra_body(extra, "$", limits)
    return extra
