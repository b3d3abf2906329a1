"""Maps a model server's refusals (an HTTP status, an error object) to errors; reads Retry-After. Pure."""

import json
import math
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from chatbot.llm.http.lenient_json import BOM, load, without_surrogates
from chatbot.llm.http.refused_parameters import read_refused_feature, read_refused_parameter
from chatbot.llm.provider import LlmError, LlmFailed, LlmOverloaded, LlmUnavailable


def read_retry_after(header: Callable[[str], str | None], now_s: float) -> float | None:
    """Seconds to wait, from the headers `retry-after-ms` or `Retry-After` (RFC 9110, 10.2.3: seconds or a date).

    `header` gives a header's value by its name. None if there is none that can be understood. A date is compared with
    the response's own Date: the server's clock may be wrong. `now_s` (unix seconds) is for responses without one.
    """
    milliseconds = _number(header("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    retry_after = header("retry-after")
    seconds = _number(retry_after)
    if seconds is not None:
        return seconds
    until_s = _unix_seconds(retry_after)
    if until_s is None:
        return None
    sent_s = _unix_seconds(header("date"))
    return max(0.0, until_s - (now_s if sent_s is None else sent_s))


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _unix_seconds(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return None


EXCERPT_MAX_CHARS = 200

# What decoding raises: ValueError for invalid UTF-8, RecursionError for too deep nesting.
JSON_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)

OVERLOADED_STATUSES = (429, 529)  # 529: Anthropic's "overloaded"
KEY_REFUSED_STATUSES = (401, 403)
PROXY_CREDENTIALS = 407
TRANSIENT_STATUSES = (408, 409, 425)  # the same request may succeed a moment later

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
_TRANSIENT_WORDS = ("servererror", "internalerror", "unavailable", "timeout", "apierror")
_PERMANENT_WORDS = ("quota", "billing")  # a retry does not help


def excerpt(document: Any, secret: str = "") -> str:
    """The message in an error object of any common shape, on one line, bounded, without `secret`.

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
    """As excerpt(), for a body that may be no JSON."""
    return excerpt(_read(body), secret)


def _read(body: bytes) -> Any:
    try:
        return load(body)
    except JSON_ERRORS:
        return body.removeprefix(BOM).decode(errors="replace")


def error_from_status(status: int, body: bytes, retry_after_s: float | None = None, secret: str = "") -> LlmError:
    """The error for an HTTP status.

    429, 529 and errors that say so in words are LlmOverloaded: the server works but has no capacity. 503 is
    LlmUnavailable: it is loading or shutting down. 408, 409 and other 5xx are LlmFailed and retryable; everything else
    (a bad request, a wrong key, a missing route, a used-up quota) is not retryable.
    """
    document = _read(body)
    reason = excerpt(document, secret)
    key = " (key refused)" if status in KEY_REFUSED_STATUSES else ""
    source = "The proxy before the model server" if status == PROXY_CREDENTIALS else "The model server"
    message = f"{source} answered {status}{key}" + (f": {reason}" if reason else "")
    is_permanent, is_overload = _mentions(document, _PERMANENT_WORDS), _mentions(document, _OVERLOAD_WORDS)
    if status in OVERLOADED_STATUSES or (
        is_overload and not is_permanent and status not in (*KEY_REFUSED_STATUSES, 404)
    ):
        return LlmOverloaded(message, retryable=not is_permanent, status=status, retry_after_s=retry_after_s)
    if status == 503:
        return LlmUnavailable(message, status=status, retry_after_s=retry_after_s)
    retryable = status >= 500 or status in TRANSIENT_STATUSES
    error = LlmFailed(message, retryable=retryable, status=status, retry_after_s=retry_after_s)
    error.parameter, error.feature = read_refused_parameter(document), read_refused_feature(reason)
    return error


def error_from_event(error: Any, secret: str = "") -> LlmError:
    """The error for an error object inside a stream. A status or words in its `code`, `status` or `type` count like an
    HTTP status."""
    message = f"The model server failed: {excerpt(error, secret)}"
    status = _status_in(error)
    if _mentions(error, _PERMANENT_WORDS):
        return LlmFailed(message)
    if status in OVERLOADED_STATUSES or _mentions(error, _OVERLOAD_WORDS):
        return LlmOverloaded(message, retryable=True)
    is_transient = status is not None and (status >= 500 or status in TRANSIENT_STATUSES)
    return LlmFailed(message, retryable=is_transient or (status is None and _mentions(error, _TRANSIENT_WORDS)))


def _status_in(error: Any) -> int | None:
    if not isinstance(error, dict):
        return None
    values = (error.get(name) for name in ("code", "status", "status_code"))
    digits = (str(one) for one in values if isinstance(one, int | str))
    return next((int(one) for one in digits if len(one) == 3 and one.isascii() and one.isdecimal()), None)


def _mentions(document: Any, words: tuple[str, ...]) -> bool:
    """Whether the codes of an error object, or its message if it has none, contain one of `words`."""
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
