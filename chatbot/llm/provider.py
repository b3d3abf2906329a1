"""The port of model providers: streams a reply's text, checks health; and the errors that a provider raises.

The `cause` of an error is recorded in reply_failed and shown as the outcome's reason.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from events.schema.parameters import Parameters, Usage
from events.schema.parts import Parts, ToolResult, media_of

OnText = Callable[[str], None]

# What a model server may take besides text; see Provider.takes.
TAKES_ALL = frozenset({"media", "tools", "response_format", "reasoning_effort", "extra_body"})


class ChatMessage(Struct, frozen=True):
    """One message of text as a model reads it; role is system, user or assistant. Encoded as it is."""

    role: str
    content: str


FEATURE_WORDS = {
    "media": "images",
    "tools": "tools",
    "response_format": "this response format",
    "reasoning_effort": "a reasoning effort",
    "extra_body": "further fields",
}


class PartsMessage(Struct, frozen=True):
    """A message that is more than one text; role is user, assistant or tool. `content` is the text of its text parts,
    `media` the bytes of its media by their SHA-256.
    """

    role: str
    content: str
    parts: Parts
    media: Mapping[str, bytes] = {}


ModelMessage = ChatMessage | PartsMessage


def used_features(message: ModelMessage, parameters: Parameters) -> list[str]:
    """What of TAKES_ALL a reply to `message` needs. Older messages may have more: a model that cannot take it gets
    their text.
    """
    parts = message.parts if isinstance(message, PartsMessage) else ()
    used = []
    if parts and media_of(parts):
        used.append("media")
    if parameters.tools or (parts and any(isinstance(part, ToolResult) for part in parts)):
        used.append("tools")
    if parameters.response_format:
        used.append("response_format")
    if parameters.reasoning_effort:
        used.append("reasoning_effort")
    if parameters.extra_body:
        used.append("extra_body")
    return used


class ReplySink(Protocol):
    """Takes a reply's parts while they arrive, in the order in which they are to be recorded.

    Called in the socket's own callback, once for all that one read brings: no task is woken for a token, so it must be
    quick. Each call adds to the part that is open, or begins one where that is of another kind or of another call.
    Raises ReplyTooLong to end the reply with what it has.
    """

    @property
    def text(self) -> OnText:
        """Takes more text. An empty piece only says that the server is alive."""
        ...

    def reasoning(self, piece: str) -> None: ...

    def refusal(self, piece: str) -> None: ...

    def tool_call(self, call_id: str, name: str, arguments: str) -> None:
        """`arguments` are the next piece, empty where the call has just begun. The pieces of one call follow each
        other: a provider holds back those of a call that begins before another one has ended.
        """
        ...

    def usage(self, usage: Usage) -> None:
        """The tokens so far, or of the whole reply: the newest count, also of a reply that ends early."""
        ...


class TextSink:
    """Hears only the text of a reply, as `on_text`."""

    def __init__(self, on_text: OnText) -> None:
        self.text = on_text

    def reasoning(self, piece: str) -> None: ...

    def refusal(self, piece: str) -> None: ...

    def tool_call(self, call_id: str, name: str, arguments: str) -> None: ...

    def usage(self, usage: Usage) -> None: ...


class Finish(Struct, frozen=True):
    """How a reply ended. `reason` is stop, length, tool_calls or content_filter; error if the reply failed.

    `usage` is None if the server does not report it. `detail` is the server's own word for the reason if it differs.
    `no_text_reason` explains in a sentence why a reply has no text. `refused_parameters` are fields of the request
    that the server does not accept, by the server's names for them.
    """

    reason: str
    model: str
    usage: Usage | None = None
    detail: str = ""
    no_text_reason: str = ""
    refused_parameters: tuple[str, ...] = ()


def require_features(takes: frozenset[str], message: ModelMessage, parameters: Parameters) -> None:
    """Raises LlmUnsupported where a reply to `message` needs what the server does not take."""
    for feature in used_features(message, parameters):
        if feature not in takes:
            raise LlmUnsupported(f"The model server does not take {FEATURE_WORDS[feature]}")


class Health(Struct, frozen=True):
    """`available`: a reply can be requested now; `detail` says why not. `starting`: the model is being loaded for the
    first time. `loading`: the model server is there, and loads its model, as far as it says so. `unusable`: loading
    failed, and will fail until its file or its settings are corrected.
    """

    available: bool
    detail: str = ""
    starting: bool = False
    unusable: bool = False
    loading: bool = False


class Route(Struct):
    """Where a reply comes from, if there are several model servers. `session`: its replies come from one of them while
    that is in service; `owner`: those who wait take turns. `server` and `provider`: the name of the one asked last, and
    what it speaks; '' if there is only one.
    """

    session: str = ""
    owner: str | None = None
    server: str = ""
    provider: str = ""


class Provider(Protocol):
    """A model server. One instance serves all sessions."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def models(self) -> frozenset[str]:
        """The names that are configured, or offered by the server as far as is known."""
        ...

    @property
    def lists_models(self) -> bool:
        """Whether `models` is complete: the server has listed its models, or has only one."""
        ...

    @property
    def takes(self) -> frozenset[str] | None:
        """Which of TAKES_ALL the server takes; None while that is not known."""
        ...

    def context_tokens(self, model: str) -> int | None:
        """The size of the context of `model` in tokens; None where it is not known."""
        ...

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        """Pass the reply to `sink` as it arrives; return how it ended.

        `stream`: False if nobody reads the reply while it grows; it may then come in one piece if the server tells more
        that way (midm counts the prompt's tokens only then). `route`: for a pool of servers, which fills it in.
        Cancelling closes the connection to the server immediately. Raises LlmError, and what `sink` raises.
        """
        ...

    async def health(self) -> Health:
        """Never raises."""
        ...

    async def close(self) -> None: ...


class LlmError(Exception):
    """The model server failed."""

    cause = "llm_failed"
    retryable = False  # the same request may succeed if it is repeated before the first text

    def __init__(
        self,
        message: str = "",
        *,
        retryable: bool | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        finish: Finish | None = None,
    ) -> None:
        """`message`: by default the class's docstring. `status`: the model server's HTTP status. `retry_after_s`: the
        seconds that it asked us to wait. `finish`: the usage and reason of a reply that it ended."""
        super().__init__(message or self.__doc__)
        if retryable is not None:
            self.retryable = retryable
        self.status = status
        self.retry_after_s = retry_after_s
        self.finish = finish
        self.parameter: str | None = None  # of our request, which the server has refused
        self.feature: str | None = None  # of TAKES_ALL, which the server does not have
        self.requested_url = ""  # without credentials and query
        self.has_text = False  # the reply had begun: what came of it is in the sink


def reason_of(error: LlmError) -> str:
    """The error, its cause (a refused connection, an unknown host) and the URL, for an operator."""
    cause = f": {error.__cause__}" if error.__cause__ else ""
    return f"{error}{cause}{_url_suffix(error)}"


def health_after(error: LlmError, detail: str = "") -> Health:
    """The health of a model server after `error`; `detail`: why, by default all that is known.

    A server that answers 503 is loading its model, as llama.cpp and vLLM do, or is shutting down.
    """
    return Health(available=False, detail=detail or reason_of(error), loading=error.status == 503)


def log_safe_reason(error: LlmError) -> str:
    """As reason_of(), without the model server's own words, which may quote the prompt."""
    reason, cause = without_server_words(str(error)), error.__cause__
    if isinstance(cause, LlmError):
        reason += f": {without_server_words(str(cause))}"
    elif cause is not None and isinstance(error, LlmUnavailable):  # why there is no connection
        reason += f": {cause}"
    return reason + _url_suffix(error)


def _url_suffix(error: LlmError) -> str:
    return f" (asked {error.requested_url})" if error.requested_url else ""


def without_server_words(sentence: str) -> str:
    """The part of an error's message that clients may read.

    The model server's own words follow the first ": ". They may name its hosts, files and accounts, or quote the
    prompt: they are for auditors only.
    """
    return sentence.partition(": ")[0]


class LlmFailed(LlmError):
    """The model server answered with an error, with nonsense, or stopped before its end."""

    cause = "llm_failed"


class LlmUnavailable(LlmError):
    """LLM server not available"""

    cause = "llm_unavailable"
    retryable = True


# Of a LlmUnavailable: other servers may be at work.
NO_SERVER = "No model server that has this model is available"


class ModelUnusable(LlmUnavailable):
    """llama.cpp has refused the model"""

    retryable = False


class LlmTimeout(LlmError):
    """The model server was too slow."""

    cause = "llm_timeout"


class LlmUnsupported(LlmError):
    """The model server does not take what the request asks for."""

    cause = "unsupported"


class LlmOverloaded(LlmError):
    """Too many replies run and wait already."""

    cause = "llm_overloaded"
