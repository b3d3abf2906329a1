"""Why a model gave no reply. `cause` is the word recorded in reply_failed and shown as the outcome's reason."""

from chatbot.llm.protocol import Finish


class LlmError(Exception):
    """The model server failed."""

    cause = "llm_failed"
    retryable = False  # the same request, asked again before the first piece of text, may well succeed

    def __init__(
        self,
        message: str = "",
        *,
        retryable: bool | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        finish: Finish | None = None,
    ) -> None:
        """Without a `message` the class's docstring is the message. `status` is the model server's HTTP status,
        `retry_after_s` the seconds that it asked us to wait, `finish` what the server told of a reply that it ended:
        its usage, and its word for the end."""
        super().__init__(message or self.__doc__)
        if retryable is not None:
            self.retryable = retryable
        self.status = status
        self.retry_after_s = retry_after_s
        self.finish = finish
        self.parameter: str | None = None  # of our request, which the server has refused
        self.asked = ""  # the URL that was asked, without credentials and query


def reason_of(error: LlmError) -> str:
    """The error, what lies behind it (a refused connection, an unknown host) and what was asked, for an operator."""
    cause = f": {error.__cause__}" if error.__cause__ else ""
    return f"{error}{cause}{_asked(error)}"


def loggable_reason(error: LlmError) -> str:
    """As reason_of(), without the model server's own words, which may quote the prompt."""
    reason, cause = public_part(str(error)), error.__cause__
    if isinstance(cause, LlmError):
        reason += f": {public_part(str(cause))}"
    elif cause is not None and isinstance(error, LlmUnavailable):  # why there is no connection
        reason += f": {cause}"
    return reason + _asked(error)


def _asked(error: LlmError) -> str:
    return f" (asked {error.asked})" if error.asked else ""


def public_part(sentence: str) -> str:
    """What a client may read of an error's sentence.

    The model server's own words come after the first ": ". They may name its hosts, files and accounts, or quote the
    prompt, and are for auditors only.
    """
    return sentence.partition(": ")[0]


class LlmFailed(LlmError):
    """The model server answered with an error, with nonsense, or stopped before its end."""

    cause = "llm_failed"


class LlmUnavailable(LlmError):
    """LLM server not available"""

    cause = "llm_unavailable"
    retryable = True


class ModelUnusable(LlmUnavailable):
    """llama.cpp has refused the model"""

    retryable = False


class LlmTimeout(LlmError):
    """The model server was too slow."""

    cause = "llm_timeout"


class LlmOverloaded(LlmError):
    """Too many replies run and wait already."""

    cause = "llm_overloaded"
