"""Checks of JSON in requests that is kept, or passed on to the model server: metadata, tools, extra_body and so on."""

import msgspec

from chatbot.api.problems import RequestFault
from chatbot.api.request_bodies import JsonObject
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.config.settings import Settings
from events.schema.parts import NAME_MAX_CHARS

DEPTH_MAX = 32  # levels of nesting in metadata: validation and readers recurse
# What extra_body never holds: it has a field of its own, or this service sets it.
RESERVED_FIELDS = frozenset(
    {
        *("messages", "model", "stream", "stream_options", "n", "user", "store", "stop", "seed"),
        *("max_tokens", "max_completion_tokens", "temperature", "top_p"),
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("response_format", "reasoning_effort"),
    }
)


def nul_fault(path: str) -> RequestFault:
    """The refusal of a text with NUL characters, which many readers take for its end."""
    return RequestFault("must not contain NUL characters", path)


def check_metadata(metadata: JsonObject, settings: Settings) -> None:
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
        _check_nul(value, path)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_nul(key, path)
            _check_value(inner, f"{path}.{key}", depth - 1, root)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_value(inner, f"{path}[{index}]", depth - 1, root)


def check_json(value: object, path: str, max_bytes: int) -> None:
    """Raises RequestFault for JSON that is too large, too deep, or has NUL characters."""
    size = len(msgspec.json.encode(value))
    if size > max_bytes:
        raise RequestFault(f"has {size} bytes; at most {max_bytes} are allowed", path)
    _check_value(value, path, DEPTH_MAX, path)


def check_tools(tools: list[JsonObject], limits: ChatSettings) -> None:
    """Raises RequestFault for tools that are too many or too large, or are no functions with a name."""
    if len(tools) > limits.tools_max:
        raise RequestFault(f"has {len(tools)} tools; at most {limits.tools_max} are allowed", "$.tools")
    check_json(tools, "$.tools", limits.tools_max_bytes)
    for index, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise RequestFault("must be function", f"$.tools[{index}].type")
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not 1 <= len(name) <= NAME_MAX_CHARS:
            raise RequestFault(f"must have 1 to {NAME_MAX_CHARS} characters", f"$.tools[{index}].function.name")


def check_extra_body(extra: JsonObject, path: str, limits: ChatSettings) -> None:
    """Raises RequestFault for fields that are not allowed, and as check_json."""
    allowed = limits.extra_body_fields
    for name in extra:
        if name in RESERVED_FIELDS:
            raise RequestFault("is no field of extra_body: the service sets it itself", f"{path}.{name}")
        if name not in allowed and "*" not in allowed:
            raise RequestFault("is not among the fields that chat.extra_body_fields allows", f"{path}.{name}")
    check_json(extra, path, limits.extra_body_max_bytes)


def _check_nul(text: str, path: str) -> None:
    if "\0" in text:
        raise nul_fault(path)
