"""What a model server's refusal (a status that is not 200, or an error object) means to us."""

import json
from typing import Any

import msgspec

from chatbot.llm.errors import LlmError, LlmFailed, LlmOverloaded, LlmUnavailable
from chatbot.llm.json_text import BOM, load, without_surrogates

EXCERPT_MAX_CHARS = 200

# What decoding raises: ValueError for bytes that are no UTF-8, RecursionError for what is nested too deeply.
NO_JSON = (msgspec.MsgspecError, ValueError, RecursionError)


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


def from_status(status: int, body: bytes, retry_after: str | None, secret: str = "") -> LlmError:
    """The error for an HTTP status.

    429 is LlmOverloaded: the server is well but has no room. 503 is LlmUnavailable: it is loading or going down. Other
    5xx are LlmFailed but worth another try; all else (a bad request, a wrong key, a missing route) is not.
    """
    try:
        told = excerpt(load(body), secret)
    except NO_JSON:
        told = excerpt(body.removeprefix(BOM).decode(errors="replace"), secret)
    message = f"The model server answered {status}" + (f": {told}" if told else "")
    retry_after_s = float(retry_after) if retry_after and retry_after.isdecimal() else None
    if status == 429:
        return LlmOverloaded(message, retryable=True, status=status, retry_after_s=retry_after_s)
    if status == 503:
        return LlmUnavailable(message, status=status, retry_after_s=retry_after_s)
    return LlmFailed(message, retryable=status >= 500, status=status, retry_after_s=retry_after_s)


def from_stream(error: Any, secret: str = "") -> LlmFailed:
    """The error for an error object inside a stream. Its `code`, where it is a number, is read as a status."""
    code = error.get("code") if isinstance(error, dict) else None
    retryable = isinstance(code, int) and (code == 429 or code >= 500)
    return LlmFailed(f"The model server failed: {excerpt(error, secret)}", retryable=retryable)
