"""What every provider offers: a stream of text that ends with how it ended, and a health check."""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from events.catalogue import Parameters, Usage

Hear = Callable[[str], None]


class ChatMessage(Struct, frozen=True):
    """One message as a model reads it; role is system, user or assistant."""

    role: str
    content: str


class Finish(Struct, frozen=True):
    """How a reply ended. `reason` is stop, length, tool_calls or content_filter; of a reply that failed it is error.

    `usage` is None when the server does not tell. `detail` is the server's own word for the reason where it is another
    one. `no_text_reason` says, in a sentence, why there is no text, should there be none.
    `refused_parameters` are fields of the request that the server does not accept, by its own names for them.
    """

    reason: str
    model: str
    usage: Usage | None = None
    detail: str = ""
    no_text_reason: str = ""
    refused_parameters: tuple[str, ...] = ()


class Health(Struct, frozen=True):
    """`available`: a reply could be asked for now. `detail` says why not. `starting`: it is being loaded for the first
    time. `unusable`: it could not be, and will not be before somebody mends its file or its settings.
    """

    available: bool
    detail: str = ""
    starting: bool = False
    unusable: bool = False


class Provider(Protocol):
    """A model server. One instance serves all sessions."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def models(self) -> frozenset[str]:
        """The names that are configured or that the server offers, as far as they are known by now."""
        ...

    @property
    def lists_models(self) -> bool:
        """Whether `models` are all that there are: the server has told its list, or has one model only."""
        ...

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, hear: Hear, *, whole: bool = False
    ) -> Finish:
        """Give the reply's text to `hear` as it arrives; return how it ended.

        `hear` is called in the socket's own callback, once for all that one read brings: no task is woken for a token,
        so it must be quick. An empty piece only says that the server lives. `whole`: nobody watches the reply grow, so
        it may come in one piece where that tells more: midm counts the prompt's tokens only then. Being cancelled
        closes the connection to the server at once. Raises the errors of `errors.py`, and what `hear` raises.
        """
        ...

    async def health(self) -> Health:
        """Never raises."""
        ...

    async def close(self) -> None: ...
