"""What every provider offers: a stream of text that ends with how it ended, and a health check."""

from collections.abc import AsyncGenerator
from typing import Protocol

from msgspec import Struct

from events.catalogue import Parameters, Usage


class ChatMessage(Struct, frozen=True):
    """One message as a model reads it; role is system, user or assistant."""

    role: str
    content: str


class Finish(Struct, frozen=True):
    """How a reply ended. `reason` is stop or length; `usage` is None when the server does not tell."""

    reason: str
    model: str
    usage: Usage | None = None


class Health(Struct, frozen=True):
    """`available`: a reply could be asked for now. `detail` says why not."""

    available: bool
    detail: str = ""


class Provider(Protocol):
    """A model server. One instance serves all sessions."""

    name: str
    model: str

    def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, *, whole: bool = False
    ) -> AsyncGenerator[str | Finish, None]:
        """The reply's text in pieces, then one Finish.

        All that one read of the socket brings comes as one piece. `whole`: nobody watches the reply grow, so it may
        come in one piece where that tells more: midm counts the prompt's tokens only then. Closing the generator
        closes the connection to the server at once. Raises the errors of `errors.py`, and nothing else.
        """
        ...

    async def health(self) -> Health:
        """Never raises."""
        ...

    async def close(self) -> None: ...
