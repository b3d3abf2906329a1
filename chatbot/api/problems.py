"""Errors as problem details (RFC 9457). One table maps each error to its HTTP status, type and title."""

from math import ceil
from typing import Any

import msgspec
from aiohttp import web

from chatbot.keys import key_errors
from chatbot.llm.concurrency_limiter import ConcurrencyLimiter
from chatbot.llm.health_monitor import HealthMonitor
from chatbot.llm.provider import LlmError, LlmOverloaded, without_server_words
from chatbot.sessions.domain import rejections
from events.errors import LogStopped, LogUnavailable, NodesOutdated, OutcomeUnknown, UnknownEvent
from projections.errors import ProjectionError

DETAIL_MAX_CHARS, PATH_MAX_CHARS = 400, 200  # of a refusal: it quotes what was sent, which may be a megabyte
RETRY_AFTER_S = 1  # if nothing is known about the wait
RETRY_AFTER_MAX_S = 600  # a guess from a queue; some servers ask for days
MODEL_KINDS = (
    "overloaded",
    "over-share",
    "too-many-pending",
    "llm-unavailable",
    "llm-overloaded",
)  # the model server decides how long

# Status, type and title of each error; the first class in the error's MRO that is listed counts.
STATUSES: dict[type[Exception], tuple[int, str, str]] = {
    rejections.SessionDeleted: (404, "session-deleted", "Session deleted"),
    rejections.SessionExpired: (404, "session-expired", "Session expired"),
    rejections.SessionNotFound: (404, "session-not-found", "Session not found"),
    key_errors.KeyNotFound: (404, "key-not-found", "Key not found"),
    key_errors.KeyExists: (409, "key-exists", "Key exists"),
    key_errors.KeyConfigured: (409, "key-configured", "Key configured"),
    key_errors.KeyRevokedAlready: (409, "key-revoked", "Key revoked"),
    key_errors.TooManyKeys: (409, "too-many-keys", "Too many keys"),
    rejections.UnknownMessage: (422, "unknown-message", "Unknown message"),
    rejections.UnknownReply: (422, "unknown-reply", "Unknown reply"),
    rejections.ParentUnanswered: (422, "invalid", "Invalid"),
    rejections.UnknownModel: (422, "invalid", "Invalid"),
    rejections.InvalidMessage: (422, "invalid", "Invalid"),
    rejections.Unsupported: (422, "unsupported", "Not supported"),
    rejections.CallsUnanswered: (422, "calls-unanswered", "Results missing"),
    rejections.TooManyRounds: (422, "too-many-rounds", "Too many rounds"),
    rejections.CallsOpen: (409, "calls-open", "Tool calls open"),
    rejections.CallsClosed: (409, "calls-closed", "Tool calls closed"),
    rejections.NoOpenCalls: (409, "no-open-calls", "No tool calls"),
    rejections.NothingToRegenerate: (422, "nothing-to-regenerate", "Nothing to regenerate"),
    rejections.KeyReused: (422, "key-reused", "Idempotency-Key reused"),
    rejections.KeyConsumed: (422, "key-spent", "Idempotency-Key spent"),
    rejections.TooLarge: (422, "invalid", "Invalid"),
    rejections.TooManyAdded: (422, "invalid", "Invalid"),
    rejections.ContextTooLong: (422, "context-too-long", "Context too long"),
    rejections.NameConsumed: (409, "name-spent", "Name spent"),
    rejections.VersionMismatch: (412, "version-mismatch", "Precondition failed"),
    rejections.VersionBehind: (412, "version-behind", "Precondition failed"),
    rejections.SessionBusy: (409, "session-busy", "Session busy"),
    rejections.SessionHeld: (409, "session-held", "Session held"),
    rejections.MessageNotFound: (404, "message-not-found", "Message not found"),
    rejections.NotQueued: (409, "not-queued", "Not queued"),
    rejections.TooManyPending: (429, "too-many-pending", "Too many messages are waiting"),
    rejections.OverShare: (429, "over-share", "Over its share"),
    rejections.Overloaded: (503, "overloaded", "Overloaded"),
    rejections.Draining: (503, "draining", "Shutting down"),
    LlmOverloaded: (503, "overloaded", "Overloaded"),
    OutcomeUnknown: (503, "outcome-unknown", "Perhaps recorded"),
    NodesOutdated: (503, "other-node-outdated", "Another node must be updated"),
    UnknownEvent: (503, "node-outdated", "This node must be updated"),
    LogStopped: (503, "log-unavailable", "Cannot record just now"),
    LogUnavailable: (503, "log-unavailable", "Cannot record just now"),
    ProjectionError: (503, "projections-unavailable", "Cannot read just now"),
}

# Details for clients where the error's own message names files of this machine, which only the log shows.
DETAILS: dict[type[Exception], str] = {
    OutcomeUnknown: "the database went away before it could tell whether this was recorded; look before you try again,"
    " or try again with the same Idempotency-Key",
    LogStopped: "nothing can be recorded until the service is restarted, because a file of its log is damaged or was"
    " removed; nothing was changed; try again after that",
    NodesOutdated: "another node of this service cannot read yet what this would record; nothing was changed; the"
    " log of this node says which one to update; try again after that",
    LogUnavailable: "nothing can be recorded just now, and nothing was changed; try again in a moment",
    ProjectionError: "the projections cannot be read just now; try again in a moment",
}

# Status and title of a reply that did not complete, by the cause recorded.
CAUSES: dict[str, tuple[int, str]] = {
    "llm_unavailable": (503, "LLM server not available"),
    "llm_overloaded": (503, "Overloaded"),
    "llm_timeout": (504, "LLM server too slow"),
    "llm_failed": (502, "LLM server failed"),
    "unsupported": (422, "Not supported"),
    "shutdown": (503, "Reply interrupted"),
    "crash": (503, "Reply interrupted"),
    "import": (503, "Reply interrupted"),
    "internal": (500, "Internal error"),
}
CAUSE_UNKNOWN = (502, "Reply failed")


class Problem(Exception):
    """An answer other than success. `extra` adds members to the problem details. `retry_s`: seconds for Retry-After;
    None: not known here.
    """

    def __init__(
        self, status: int, kind: str, title: str, detail: str, *, retry_s: int | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.extra = extra
        self.retry_s = retry_s


class RequestFault(Exception):
    """The request is invalid. `path` points at the fault, such as $.message; None: the body as a whole."""

    def __init__(
        self, detail: str, path: str | None = None, *, status: int = 422, kind: str = "invalid", title: str = "Invalid"
    ) -> None:
        super().__init__(detail)
        self.detail = shorten_middle(detail, DETAIL_MAX_CHARS)
        self.path = path and shorten_middle(path, PATH_MAX_CHARS)
        self.status = status
        self.kind = kind
        self.title = title

    @property
    def sentence(self) -> str:
        return f"{self.path}: {self.detail}" if self.path else self.detail


def shorten_middle(text: str, max_chars: int) -> str:
    """`text`, without its middle if it is longer than `max_chars`: its ends say most."""
    if len(text) <= max_chars:
        return text
    half = (max_chars - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def problem_of(error: Exception) -> Problem | None:
    """The problem for a known error; None for an unexpected one."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestFault):
        faults = [{"path": error.path, "detail": error.detail}] if error.path else []
        extra: dict[str, Any] = {"errors": faults} if faults else {}
        return Problem(error.status, error.kind, error.title, error.sentence, **extra)
    if isinstance(error, web.HTTPException):
        return _http_problem(error)
    if isinstance(error, ProjectionError) and isinstance(error.__cause__, UnknownEvent):
        error = error.__cause__  # why the projections stopped
    for known in type(error).__mro__:
        if known in STATUSES:
            status, kind, title = STATUSES[known]
            detail = DETAILS.get(known) or str(error)
            problem = Problem(status, kind, title, detail)
            if isinstance(error, rejections.Rejection):
                problem.extra |= error.members
                if error.path is not None:
                    problem.extra["errors"] = [{"path": error.path, "detail": detail}]
            return problem
    if isinstance(error, LlmError):
        status, title = CAUSES.get(error.cause, CAUSE_UNKNOWN)
        return Problem(status, error.cause.replace("_", "-"), title, without_server_words(str(error)))
    return None


def internal_error() -> Problem:
    """The problem for an unexpected error. It reveals nothing; the log has the error under the request's id."""
    return Problem(500, "internal-error", "Internal error", "internal error; the logs have it under this request id")


def retry_after_s(
    problem: Problem, health: HealthMonitor, limiter: ConcurrencyLimiter, owner: str | None = None
) -> int:
    """Seconds after which to retry: what the model server asks for, or the expected wait of `owner` in its queue."""
    if problem.retry_s is not None:
        return problem.retry_s
    if problem.kind == "media-quota":  # uploads go after hours, or when messages refer to them
        return RETRY_AFTER_MAX_S
    if problem.kind not in MODEL_KINDS:
        return RETRY_AFTER_S
    wait_s = max(health.server_wait_s, limiter.expected_wait_s(owner))
    if problem.kind == "too-many-pending":  # the limit of one session: its own replies come first
        wait_s = max(wait_s, limiter.mean_s)
    return min(max(RETRY_AFTER_S, ceil(wait_s)), RETRY_AFTER_MAX_S)


def render(
    problem: Problem, request: web.BaseRequest | None, prefix: str = "", retry_s: int = RETRY_AFTER_S
) -> web.Response:
    """The response, with Retry-After (`retry_s`, seconds) if a retry makes sense. `prefix` is the path prefix of a
    proxy. `request` is None if none was read."""
    instance = {} if request is None else {"instance": request.path}
    body = {
        "type": f"{prefix}/problems/{problem.kind}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        **instance,
        **problem.extra,
    }
    response = web.Response(
        status=problem.status, body=msgspec.json.encode(body), content_type="application/problem+json"
    )
    if problem.status in (429, 503):
        response.headers["Retry-After"] = str(retry_s)
    return response


def _http_problem(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        problem = Problem(405, "method-not-allowed", "Method not allowed", f"allowed here: {allowed}")
        problem.extra["allow"] = sorted(error.allowed_methods)
        return problem
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Problem(413, "body-too-large", "Body too large", error.text or "the body is too large")
    if isinstance(error, web.HTTPNotFound):
        return Problem(404, "no-such-path", "Not found", "there is nothing at this path; see /docs")
    return Problem(error.status, "http-error", error.reason, error.text or error.reason)
