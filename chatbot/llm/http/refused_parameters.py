"""Parameters that a model does not accept, as read from its server's error; requests without them. Pure."""

import re
from typing import Any

# What may be left out or renamed: the reply is then still about the one that was requested.
REPLACEMENTS: dict[str, str | None] = {
    "max_tokens": "max_completion_tokens",  # never left out: it bounds what a reply may cost
    "temperature": None,
    "top_p": None,
    "stop": None,
    "seed": None,
    "parallel_tool_calls": None,
    "reasoning_effort": None,
    "stream_options": None,
}

# A bad value ("temperature must be at most 1") is no refusal of the parameter: leaving it out would hide the error.
_REFUSED_CODES = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden"})
_REFUSED_WORDS = re.compile(
    r"unsupported|not supported|n.t supported|does(?: not|n.t) support|unrecognized|unrecognised|unknown|unexpected"
    r"|extra (?:inputs|fields)|not permitted|not allowed|deprecated",
    re.IGNORECASE,
)
_BAD_VALUE_WORDS = re.compile(
    r"\b(?:range|between|above|below|maximum|minimum|exceeds|at (?:most|least)|(?:more|less|greater|larger|higher) than"
    r"|too (?:large|high|big|long|many|low|small|short))\b",
    re.IGNORECASE,
)


def read_refused_parameter(document: Any) -> str | None:
    """The parameter that is not accepted according to an error object; None if it says something else."""
    if isinstance(document, dict):
        fault = _first_fault(document.get("detail")) or document.get("error") or document
    else:
        fault = document
    if isinstance(fault, str):
        fault = {"message": fault}
    if not isinstance(fault, dict):
        return None
    message = next((fault[name] for name in ("message", "msg", "detail") if isinstance(fault.get(name), str)), "")
    codes = {fault.get(name) for name in ("code", "type") if isinstance(fault.get(name), str)}
    is_refusal = _REFUSED_WORDS.search(message) and not _BAD_VALUE_WORDS.search(message)
    if not (codes & _REFUSED_CODES or is_refusal):
        return None
    named = fault.get("param")
    if not isinstance(named, str) and isinstance(fault.get("loc"), list):
        named = next((one for one in fault["loc"] if isinstance(one, str) and one in REPLACEMENTS), None)
    if isinstance(named, str):
        named = named.partition(".")[0]  # stream_options.include_usage
        return named if named in REPLACEMENTS else None
    words = re.findall(r"\w+", message)
    return next((word for word in words if word in REPLACEMENTS), None)


# What is never left out, because the reply would be about something else: how servers say that they do not have it.
_FEATURE_REFUSED_WORDS = re.compile(
    r"unsupported|not support|n.t support|only supported|not permitted|not allowed|unrecognized"
    r"|unknown (?:variant|parameter|field|name)|requires?\b.{0,40}--|no endpoints found|type is unavailable"
    r"|not a multi-?modal|at most 0 |missing data|valid string|be a string",
    re.IGNORECASE,
)
_FEATURES = (
    ("media", re.compile(r"image|vision|multi-?modal|mmproj|content\b.{0,80}\bstring", re.IGNORECASE)),
    (
        "response_format",
        re.compile(r"response_format|json_schema|json_object|structured output|grammar", re.IGNORECASE),
    ),
    ("tools", re.compile(r"\btools?\b|tool[_ -]?(?:choice|call|use)|\bfunctions?\b", re.IGNORECASE)),
)


def read_refused_feature(message: str) -> str | None:
    """What the server does not have, of media, response_format and tools, according to an error's message."""
    if not _FEATURE_REFUSED_WORDS.search(message) or _BAD_VALUE_WORDS.search(message.replace("At most 0 ", "")):
        return None
    return next((feature for feature, words in _FEATURES if words.search(message)), None)


def _first_fault(detail: Any) -> Any:
    """FastAPI has a list of faults."""
    return detail[0] if isinstance(detail, list) and detail else detail


def without_parameters(body: dict[str, Any], refused: frozenset[str]) -> dict[str, Any]:
    """The request's body with refused parameters left out or renamed."""
    if not refused:
        return body
    kept = {name: value for name, value in body.items() if name not in refused}
    renamed = {new: body[name] for name in refused if name in body and (new := REPLACEMENTS.get(name)) is not None}
    return kept | renamed
