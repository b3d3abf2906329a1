"""A provider whose every piece of text, end and failure is given by hand."""

import asyncio

from chatbot.llm.errors import LlmError
from chatbot.llm.protocol import ChatMessage, Finish, Health, Hear
from events.catalogue import Parameters


class Call:
    """One request for a reply. `closed` once nobody reads it any more."""

    def __init__(self, messages: tuple[ChatMessage, ...], parameters: Parameters) -> None:
        self.messages = messages
        self.parameters = parameters
        self.closed = False
        self.given: asyncio.Queue[str | Finish | LlmError] = asyncio.Queue()


class HandModel:
    """Implements chatbot.llm.protocol.Provider. `calls` holds every request, in order."""

    name = "hand"
    model = "hand-model"
    models = frozenset({model})
    lists_models = False

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def stream(
        self, messages: tuple[ChatMessage, ...], parameters: Parameters, hear: Hear, *, whole: bool = False
    ) -> Finish:
        call = Call(messages, parameters)
        self.calls.append(call)
        try:
            while True:
                given = await call.given.get()
                if isinstance(given, LlmError):
                    raise given
                if isinstance(given, Finish):
                    return given
                hear(given)
        finally:
            call.closed = True

    def call_for(self, seed: int | None) -> Call | None:
        """The newest request with this seed, which is what a test tells its replies apart by."""
        return next((call for call in reversed(self.calls) if call.parameters.seed == seed), None)

    async def health(self) -> Health:
        return Health(available=True)

    async def close(self) -> None: ...
