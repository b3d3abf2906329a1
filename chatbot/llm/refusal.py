"""What a model server's refusal (a status that is not 200, or an error object) means to us. Pure."""

import json
from typing import Any

import msgspec

from chatbot.llm.errors import LlmError, LlmFailed, LlmOverloaded, LlmUnavailable
from chatbot.llm.json_text import BOM, load, without_surrogates
from chatbot.llm.refused_parameters import read_refused_parameter

EXCERPT_MAX_CHARS = 200

# What decoding raises: ValueError for bytes that are no UTF-8, RecursionError for what is nested too deeply.
NO_JSON = (msgspec.MsgspecError, ValueError, RecursionError)

OVERLOADED = (429, 529)  # 529: Anthropic's "overloaded"
KEY_REFUSED = (401, 403)
PROXY_CREDENTIALS = 407
PASSING = (408, 409, 425)  # the same request may be answered a moment later

# Parts of the codes and types of errors, in lower case, without anything but letters and digits.
_OVERLOAD_WORDS = (
    "overload",
    "busy",
    "ratelimit",
    "toomanyrequests",
    "throttl",
    "capacity",
    "resourceexhausted",
    "queuefull",
)
_PASSING_WORDS = ("servererror", "internalerror", "unavailable", "timeout", "apierror")
_LASTING_WORDS = ("quota", "billing")  # asking again does not help


def excerpt(document: Any, secret: str = "") -> str:
    """The sentence in an error object of any common shape, on one line, bounded, without `secret`.

    Known shapes: {"error": {"message"}} (openai), {"error": "..."} (Ollama), {"detail": "..." or [...]} (FastAPI),
    {"message": "..."}, and plain text.
    """
    for name in ("error", "detail", "message"):
        while isinstance(document, dict) and document.get(name):
            document = document[name]
    text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    text = " ".join(without_surrogates(text).split())
    if secret:
        text = text.replace(secret, "***")
    return text if len(text) <= EXCERPT_MAX_CHARS else text[: EXCERPT_MAX_CHARS - 1] + "…"


def excerpt_of(body: bytes, secret: str = "") -> str:
    """As excerpt(), of a body that may be no JSON."""
    return excerpt(_read(body), secret)


def _read(body: bytes) -> Any:
    try:
        return load(body)
    except NO_JSON:
        return body.removeprefix(BOM).decode(errors="replace")


def from_status(status: int, body: bytes, retry_after_s: float | None = None, secret: str = "") -> LlmError:
    """The error for an HTTP status.

    429, 529 and errors that say so in their words are LlmOverloaded: the server is well but has no room. 503 is
    LlmUnavailable: it is loading or going down. 408, 409 and other 5xx are LlmFailed but worth another try; all else (a
    bad request, a wrong key, a missing route) is not, nor is a quota that is used up.
    """
    document = _read(body)
    told = excerpt(document, secret)
    key = " (key refused)" if status in KEY_REFUSED else ""
    who = "The proxy before the model server" if status == PROXY_CREDENTIALS else "The model server"
    message = f"{who} answered {status}{key}" + (f": {told}" if told else "")
    lasts, is_overload = _says(document, _LASTING_WORDS), _says(document, _OVERLOAD_WORDS)
    if status in OVERLOADED or (is_overload and not lasts and status not in (*KEY_REFUSED, 404)):
        return LlmOverloaded(message, retryable=not lasts, status=status, retry_after_s=retry_after_s)
    if status == 503:
        return LlmUnavailable(message, status=status, retry_after_s=retry_after_s)
    retryable = status >= 500 or status in PASSING
    error = LlmFailed(message, retryable=retryable, status=status, retry_after_s=retry_after_s)
    error.parameter = read_refused_parameter(document)
    return error


def from_stream(error: Any, secret: str = "") -> LlmError:
    """The error for an error object inside a stream. What its `code`, `status` or `type` says of a status or in words
    decides as a status does."""
    message = f"The model server failed: {excerpt(error, secret)}"
    status = _status_in(error)
    if _says(error, _LASTING_WORDS):
        return LlmFailed(message)
    if status in OVERLOADED or _says(error, _OVERLOAD_WORDS):
        return LlmOverloaded(message, retryable=True)
    is_passing = status is not None and (status >= 500 or status in PASSING)
    return LlmFailed(message, retryable=is_passing or (status is None and _says(error, _PASSING_WORDS)))


def _status_in(error: Any) -> int | None:
    if not isinstance(error, dict):
        return None
    told = (error.get(name) for name in ("code", "status", "status_code"))
    digits = (str(one) for one in told if isinstance(one, int | str))
    return next((int(one) for one in digits if len(one) == 3 and one.isascii() and one.isdecimal()), None)


def _says(document: Any, words: tuple[str, ...]) -> bool:
    """Whether the codes of an error object, or its sentence where it has none, contain one of `words`."""
    while isinstance(document, dict) and isinstance(document.get("error"), dict):
        document = document["error"]
    if isinstance(document, dict):
        codes = [document.get(name) for name in ("code", "type", "status", "error", "reason")]
        texts = [one for one in codes if isinstance(one, str) and not one.isdecimal()]
        texts = texts or [one for one in (document.get("message"), document.get("detail")) if isinstance(one, str)]
    else:
        texts = [document[:EXCERPT_MAX_CHARS]] if isinstance(document, str) else []
    plain = ["".join(filter(str.isalnum, text.lower())) for text in texts]
    return any(word in text for text in plain for word in words)
