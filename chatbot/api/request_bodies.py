"""Request bodies: their types, read within limits, validated, and refused with the path of the fault."""

import asyncio
import codecs
import json
import re
import uuid
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict

from chatbot.api.part_bodies import PartBody
from chatbot.api.problems import DETAIL_MAX_CHARS, RequestFault, shorten_middle
from chatbot.api.request_limits import BODIES
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.config.settings import Settings
from events.catalogue import Parameters
from events.parts import NAME_MAX_CHARS

DEPTH_MAX = 32  # levels of nesting in metadata: validation and readers recurse
STOPS_MAX = 8
Body = TypeVar("Body")
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
# What extra_body never holds: it has a field of its own, or this service sets it.
RESERVED_FIELDS = frozenset(
    {
        *("messages", "model", "stream", "stream_options", "n", "user", "store", "stop", "seed"),
        *("max_tokens", "max_completion_tokens", "temperature", "top_p"),
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("response_format", "reasoning_effort"),
    }
)


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
    role: Literal["user"] = "user"
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


_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    body: msgspec.json.Decoder(body)
    for body in (CreateSessionBody, ChangeSessionBody, ChatBody, RegenerateBody, BranchBody, ForkBody, CancelBody)
}
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_canonical_id = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_FIELD = re.compile(r"field `(?P<name>[^`]*)`")


async def read_body(request: web.Request, kind: type[Body], timeout_s: float, *, optional: bool = False) -> Body:
    """The request's body as `kind`; if it is `optional`, an empty one counts as {}.

    Raises RequestFault, HTTPRequestEntityTooLarge beyond the configured size, Overloaded if the bodies that are
    arriving exceed their budget together.
    """
    if (request.content_length or 0) > request.client_max_size:  # known before a byte of it is read
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
    try:
        if request.content.is_eof():  # the usual case: nothing to wait for
            raw = await request.read()
        else:
            size = request.client_max_size if request.content_length is None else request.content_length
            with request.app[BODIES].reserve(size):
                async with asyncio.timeout(timeout_s):
                    raw = await request.read()
    except TimeoutError:
        raise RequestFault("the body did not arrive in time", status=408, kind="timeout", title="Timeout") from None
    except web.RequestPayloadError as error:
        why = f"the body stopped before its end or is not what its headers say ({type(error).__name__})"
        raise RequestFault(why, status=400, kind="cut-body", title="Cut body") from error
    raw = raw.removeprefix(codecs.BOM_UTF8)  # some editors and shells write one
    if not raw and optional:
        raw = b"{}"
    elif request.content_type != "application/json":
        raise RequestFault(
            "send Content-Type: application/json", status=415, kind="media-type", title="Unsupported media type"
        )
    return decode_body(raw, kind)


def decode_body(raw: bytes, kind: type[Body]) -> Body:
    """Raises RequestFault: 400 for invalid JSON, 422 for JSON of another shape."""
    try:
        body: Body = _decoders[kind].decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = "a \\u escape is a lone surrogate" if _has_lone_surrogate(raw) else str(error)
        raise RequestFault(f"not JSON: {why}", status=400, kind="malformed", title="Malformed JSON") from None
    except RecursionError:
        raise RequestFault("nested too deeply", status=400, kind="malformed", title="Malformed JSON") from None
    else:
        return body


def _has_lone_surrogate(raw: bytes) -> bool:
    """Whether `raw` has half of a UTF-16 pair, from software that cuts texts. To the decoder it is just truncated."""
    try:
        json.dumps(json.loads(raw), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _invalid(message: str, kind: type) -> RequestFault:
    message = shorten_middle(message, 2 * DETAIL_MAX_CHARS)
    found = _WHERE.match(message)
    what = found["what"] if found else message
    path = (found["path"] if found else None) or "$"
    field = _FIELD.search(what)
    if field and what.startswith("Object"):  # unknown or missing: point at the field, not at its object
        holder, path = path, f"{path}.{field['name']}"
        if "unknown" in what:
            what += f"; known are {', '.join(sorted(_fields_at(kind, holder)))}"
    return RequestFault(what[:1].lower() + what[1:], path)


def _fields_at(kind: Any, path: str) -> tuple[str, ...]:
    """The names that the object at `path` of a body of type `kind` may have."""
    for name in path.split(".")[1:]:
        hint = get_type_hints(kind).get(name)
        kind = next((one for one in get_args(hint) if hasattr(one, "__struct_fields__")), object)
    return getattr(kind, "__struct_fields__", ())


def check_text(text: str, path: str, max_chars: int, *, blank: bool = False) -> None:
    """Raises RequestFault for a text that is too long, blank (unless `blank`), or has NUL characters."""
    if len(text) > max_chars:
        raise RequestFault(f"has {len(text)} characters; at most {max_chars} are allowed", path)
    if not blank and not text.strip():
        raise RequestFault("must not be empty or blank", path)
    if "\0" in text:
        raise RequestFault("must not contain NUL characters", path)


def check_metadata(metadata: dict[str, Any], settings: Settings) -> None:
    """Raises RequestFault for metadata that is too large, too deep, or has NUL characters."""
    limits = settings.sessions
    if len(metadata) > limits.metadata_keys_max:
        raise RequestFault(f"has {len(metadata)} keys; at most {limits.metadata_keys_max} are allowed", "$.metadata")
    size = len(msgspec.json.encode(metadata))
    if size > limits.metadata_max_bytes:
        raise RequestFault(f"has {size} bytes; at most {limits.metadata_max_bytes} are allowed", "$.metadata")
    _check_value(metadata, "$.metadata", DEPTH_MAX)


def _check_value(value: object, path: str, depth: int, root: str = "$.metadata") -> None:
    """Raises RequestFault for NUL characters, and for a value at `root` that is nested too deeply."""
    if depth == 0:
        raise RequestFault(f"is nested more than {DEPTH_MAX} levels deep", root)
    if isinstance(value, str):
        check_text(value, path, len(value), blank=True)
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_text(key, path, len(key), blank=True)
            _check_value(inner, f"{path}.{key}", depth - 1, root)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_value(inner, f"{path}[{index}]", depth - 1, root)


def _check_json(value: object, path: str, max_bytes: int) -> None:
    """Raises RequestFault for JSON that is too large, too deep, or has NUL characters."""
    size = len(msgspec.json.encode(value))
    if size > max_bytes:
        raise RequestFault(f"has {size} bytes; at most {max_bytes} are allowed", path)
    _check_value(value, path, DEPTH_MAX, path)


def _check_tools(tools: list[JsonObject], limits: ChatSettings) -> None:
    if len(tools) > limits.tools_max:
        raise RequestFault(f"has {len(tools)} tools; at most {limits.tools_max} are allowed", "$.tools")
    _check_json(tools, "$.tools", limits.tools_max_bytes)
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise RequestFault("must be function", f"$.tools[{index}].type")
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not 1 <= len(name) <= NAME_MAX_CHARS:
            raise RequestFault(f"must have 1 to {NAME_MAX_CHARS} characters", f"$.tools[{index}].function.name")


def _check_extra_body(extra: JsonObject, path: str, limits: ChatSettings) -> None:
    allowed = limits.extra_body_fields
    for name in extra:
        if name in RESERVED_FIELDS:
            raise RequestFault("is no field of extra_body: the service sets it itself", f"{path}.{name}")
        if name not in allowed and "*" not in allowed:
            raise RequestFault("is not among the fields that chat.extra_body_fields allows", f"{path}.{name}")
    _check_json(extra, path, limits.extra_body_max_bytes)


def check_options(body: ReplyBody | ParametersBody, path: str, limits: ChatSettings) -> None:
    """Check those parameters that the model server gets as they are. `path` leads to the object that has them.

    Raises RequestFault.
    """
    if isinstance(body, ReplyBody):
        if body.tools is not None:
            _check_tools(body.tools, limits)
        if body.tool_choice is not None:
            _check_json(body.tool_choice, "$.tool_choice", limits.tools_max_bytes)
    if isinstance(body.response_format, dict):
        _check_json(body.response_format, f"{path}.response_format", limits.response_format_max_bytes)
    if isinstance(body.reasoning_effort, str):
        check_text(body.reasoning_effort, f"{path}.reasoning_effort", len(body.reasoning_effort))
    if isinstance(body.extra_body, dict):
        _check_extra_body(body.extra_body, f"{path}.extra_body", limits)


def canonical_id(text: str) -> str | None:
    """The UUID `text` as the log writes UUIDs; None if it is not a UUID."""
    if _canonical_id.fullmatch(text):
        return text
    if len(text) != 36:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def check_chat(body: ChatBody, settings: Settings) -> None:
    """Check what the types cannot express, but for a message in parts, see message_parts.py. Raises RequestFault."""
    if canonical_id(body.session_id) is None:
        raise RequestFault("is not a UUID", "$.session_id")
    if isinstance(body.message, str):
        check_text(body.message, "$.message", settings.chat.message_max_chars)
    check_reply(body, settings)


def check_reply(body: ReplyBody, settings: Settings) -> None:
    """Check what the types of the parameters cannot express. Raises RequestFault."""
    check_tokens(body.max_new_tokens, "$.max_new_tokens", settings)
    check_options(body, "$", settings.chat)


def check_tokens(max_new_tokens: int | UnsetType | None, path: str, settings: Settings) -> None:
    """Raises RequestFault for more tokens than the ceiling of one reply."""
    ceiling = settings.chat.max_tokens_ceiling
    if isinstance(max_new_tokens, int) and max_new_tokens > ceiling:
        raise RequestFault(f"expected `int` <= {ceiling}", path)


def check_settings(body: CreateSessionBody | ChangeSessionBody, settings: Settings) -> None:
    """Raises RequestFault for a system prompt or parameters beyond the limits."""
    if isinstance(body.system_prompt, str):
        check_text(body.system_prompt, "$.system_prompt", settings.chat.system_prompt_max_chars, blank=True)
    if isinstance(body.parameters, ParametersBody):
        check_tokens(body.parameters.max_new_tokens, "$.parameters.max_new_tokens", settings)
        check_options(body.parameters, "$.parameters", settings.chat)


def parameters_of(body: ReplyBody) -> Parameters:
    """The parameters that the request gives."""
    return Parameters(
        max_new_tokens=body.max_new_tokens,
        temperature=body.temperature,
        do_sample=body.do_sample,
        top_p=body.top_p,
        stop=tuple(body.stop or ()),
        seed=body.seed,
        model=body.model,
        tools=body.tools,
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=body.response_format,
        reasoning_effort=body.reasoning_effort,
        extra_body=body.extra_body,
        send_reasoning=body.send_reasoning,
    )


def parameter_changes(body: CreateSessionBody | ChangeSessionBody) -> dict[str, Any]:
    """The session's parameters, by name, that the request sets or removes (None)."""
    changes: dict[str, Any] = {}
    if body.parameters is None:
        changes = dict.fromkeys(ParametersBody.__struct_fields__)
    elif isinstance(body.parameters, ParametersBody):
        named = asdict(body.parameters)
        changes = {name: value for name, value in named.items() if value is not UNSET}
    if isinstance(changes.get("stop"), list):
        changes["stop"] = tuple(changes["stop"])
    if body.model is not UNSET:
        changes["model"] = body.model
    return changes
