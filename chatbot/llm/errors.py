"""Why a model gave no reply. `cause` is the word recorded in reply_failed and shown as the outcome's reason."""


class LlmError(Exception):
    """The model server failed."""

    cause = "llm_failed"


class LlmFailed(LlmError):
    """The model server answered with an error, with nonsense, or stopped before its end."""

    cause = "llm_failed"


class LlmUnavailable(LlmError):
    """LLM server not available"""

    cause = "llm_unavailable"


class LlmTimeout(LlmError):
    """The model server was too slow."""

    cause = "llm_timeout"


class LlmOverloaded(LlmError):
    """Too many replies run and wait already."""

    cause = "llm_overloaded"
