"""What a failed request says of its server, and whether another server may be asked instead. Pure."""

from chatbot.llm.http.error_mapping import KEY_REFUSED_STATUSES, PROXY_CREDENTIALS
from chatbot.llm.provider import LlmError, LlmFailed, LlmOverloaded, LlmTimeout, LlmUnavailable

SERVER_FAULT = 500  # and beyond
NOT_FOUND = 404  # the model is gone, or the server's API is elsewhere: another server may have it
OVERLOAD_PAUSE_S = 1.0  # without a Retry-After


def is_server_fault(error: LlmError) -> bool:
    """Whether the server, and not the request, is to blame: it cannot be reached, is silent, cuts its answer off,
    answers nonsense or 5xx, or refuses our key.
    """
    match error:
        case LlmUnavailable() | LlmTimeout():
            return True
        case LlmFailed():
            status = error.status
            if status is None:
                return error.finish is None  # else the model ended its reply, with nothing to show
            return status >= SERVER_FAULT or status in (*KEY_REFUSED_STATUSES, PROXY_CREDENTIALS)
        case _:
            return False


def requested_pause_s(error: LlmError) -> float:
    """For how long the server is not to be asked: as it says, or as it has no capacity."""
    return error.retry_after_s or (OVERLOAD_PAUSE_S if isinstance(error, LlmOverloaded) else 0.0)


def may_fall_back(error: LlmError) -> bool:
    """Whether another server may answer the same request. Never after the first text: it would be sent twice."""
    if error.has_text:
        return False
    is_elsewhere = isinstance(error, LlmFailed) and error.status == NOT_FOUND
    return error.retryable or isinstance(error, LlmOverloaded) or is_elsewhere or is_server_fault(error)
