"""How long a server asks to be left alone (RFC 9110, 10.2.3). Pure.

What a model server's refusal (a status that is not 200, or an error object) means to us. Pure.
"""

import json
import math
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from chatbot.llm.http.lenient_json import BOM, load, without_surrogates
from chatbot.llm.http.refused_parameters import read_refused_parameter
from chatbot.llm.provider import LlmError, LlmFailed, LlmOverloaded, LlmUnavailable


def read_retry_after(header: Callable[[str], str | None], now_s: float) -> float | None:
    """Seconds, from `header` (a header's value by its name): `retry-after-ms`, else `Retry-After` in seconds, decimals
    or as a date. None where it says nothing that can be understood.

    A date is compared with the answer's own Date: the server's clock may be wrong. `now_s`, unix seconds, is for
    answers without one.
    """
    milliseconds = _number(header("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = header("retry-after")
    seconds = _number(told)
    if seconds is not None:
        return seconds
    until_s = _unix_seconds(told)
    if until_s is None:
        return None
    sent_s = _unix_seconds(header("date"))
    return max(0.0, until_s - (now_s if sent_s is None else sent_s))


def _number(told: str | None) -> float | None:
    try:
        number = float(told or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _unix_seconds(told: str | None) -> float | None:
    try:
        return parsedate_to_datetime(told or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return None


EXCERPT_MAX_CHARS = 200

# What decoding raises: ValueError for bytes that are no UTF-8, RecursionError for what is nested too deeply.
JSON_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)

OVERLOADED_STATUSES = (429, 529)  # 529: Anthropic's "overloaded"
KEY_REFUSED_STATUSES = (401, 403)
PROXY_CREDENTIALS = 407
TRANSIENT_STATUSES = (408, 409, 425)  # the same request may be answered a moment later

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
_PERMANENT_WORDS = ("quota", "billing")  # asking again does not help


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
    except JSON_ERRORS:
        return body.removeprefix(BOM).decode(errors="replace")


def error_from_status(status: int, body: bytes, retry_after_s: float | None = None, secret: str = "") -> LlmError:
    """The error for an HTTP status.

    429, 529 and errors that say so in their words are LlmOverloaded: the server is well but has no room. 503 is
    LlmUnavailable: it is loading or going down. 408, 409 and other 5xx are LlmFailed but worth another try; all else (a
    bad request, a wrong key, a missing route) is not, nor is a quota that is used up.
    """
    document = _read(body)
    told = excerpt(document, secret)
    key = " (key refused)" if status in KEY_REFUSED_STATUSES else ""
    who = "The proxy before the model server" if status == PROXY_CREDENTIALS else "The model server"
    message = f"{who} answered {status}{key}" + (f": {told}" if told else "")
    is_permanent, is_overload = _mentions(document, _PERMANENT_WORDS), _mentions(document, _OVERLOAD_WORDS)
    if status in OVERLOADED_STATUSES or (
        is_overload and not is_permanent and status not in (*KEY_REFUSED_STATUSES, 404)
    ):
        return LlmOverloaded(message, retryable=not is_permanent, status=status, retry_after_s=retry_after_s)
    if status == 503:
        return LlmUnavailable(message, status=status, retry_after_s=retry_after_s)
    retryable = status >= 500 or status in TRANSIENT_STATUSES
    error = LlmFailed(message, retryable=retryable, status=status, retry_after_s=retry_after_s)
    error.parameter = read_refused_parameter(document)
    return error


def error_from_event(error: Any, secret: str = "") -> LlmError:
    """The error for an error object inside a stream. What its `code`, `status` or `type` says of a status or in words
    decides as a status does."""
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
    told = (error.get(name) for name in ("code", "status", "status_code"))
    digits = (str(one) for one in told if isinstance(one, int | str))
    return next((int(one) for one in digits if len(one) == 3 and one.isascii() and one.isdecimal()), None)


def _mentions(document: Any, words: tuple[str, ...]) -> bool:
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
