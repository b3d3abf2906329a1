"""Errors under /v1 in the form that clients of OpenAI's API read. Pure."""

import re

import msgspec
from aiohttp import web
from msgspec import Struct

from chatbot.api.problems import Problem

# What a client is told to do, where the status alone would tell it otherwise: SDKs repeat after 409, 429 and 5xx.
RETRIED_STATUSES = (408, 429, 502, 503, 504)
NOT_RETRIED_STATUSES = (409, 500)
NOT_RETRIED = frozenset({"media-quota", "outcome-unknown", "other-node-outdated", "node-outdated", "too-many-failures"})
# The codes of OpenAI's API for problems that it has, too; of others the name of the problem type is the code.
CODES = {
    "unauthorized": "invalid_api_key",
    "no-such-path": "unknown_url",
    "method-not-allowed": "method_not_supported",
    "body-too-large": "request_too_large",
    "invalid": "invalid_value",
    "malformed": "invalid_json",
    "media-type": "invalid_content_type",
    "unsupported": "unsupported_parameter",
    "context-too-long": "context_length_exceeded",
    "too-many-pending": "rate_limit_exceeded",
    "over-share": "rate_limit_exceeded",
    "too-many-failures": "rate_limit_exceeded",
    "internal-error": "internal_error",
}
_PATH = re.compile(r"\$\.?")


class ErrorBody(Struct, frozen=True):
    """`type` and `code` are words for programs; `param` is the field at fault, such as messages[0].content."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorView(Struct, frozen=True):
    error: ErrorBody


def is_v1(path: str) -> bool:
    """Whether requests to `path` are answered in OpenAI's form."""
    return path == "/v1" or path.startswith("/v1/")


def error_of(problem: Problem) -> ErrorView:
    """`problem` in OpenAI's form."""
    faults: list[dict[str, str]] = problem.extra.get("errors", [])
    path = faults[0]["path"] if faults else ""
    return ErrorView(
        ErrorBody(
            message=_PATH.sub("", problem.detail, count=1) if path else problem.detail,
            type=_type_of(status_of(problem)),
            param=_PATH.sub("", path, count=1) or None,
            code=CODES.get(problem.kind, problem.kind.replace("-", "_")),
        )
    )


def status_of(problem: Problem) -> int:
    """The status under /v1: what is not valid is 400 there."""
    return 400 if problem.status == 422 else problem.status


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def render_error(problem: Problem, retry_s: int) -> web.Response:
    """The response. `retry_s`: seconds after which a repetition makes sense, if it does: not if the problem is marked
    `is_final`, as the failure of a reply to a request with a key is. Its `content_location` is where to read what has
    failed.
    """
    status = status_of(problem)
    response = web.Response(status=status, body=msgspec.json.encode(error_of(problem)), content_type="application/json")
    if "content_location" in problem.extra:
        response.headers["Content-Location"] = problem.extra["content_location"]
    if status in (429, 503):
        response.headers["Retry-After"] = str(retry_s)
    if status in RETRIED_STATUSES or status in NOT_RETRIED_STATUSES:
        is_retried = (
            status in RETRIED_STATUSES and problem.kind not in NOT_RETRIED and not problem.extra.get("is_final")
        )
        response.headers["X-Should-Retry"] = "true" if is_retried else "false"
    return response
