"""A provider whose every piece of text, end and failure is given by hand."""

import asyncio
from typing import Self

from chatbot.llm.provider import (
    TAKES_ALL,
    Finish,
    Health,
    LlmError,
    ModelMessage,
    ReplySink,
    Route,
)
from chatbot.sessions.replies.growing_parts import PartKind
from events.catalogue import Parameters, Usage


class PartPiece(str):
    """The next piece of a part of another kind than text; as a str, what it adds to the flat text."""

    __slots__ = ("call_id", "kind", "name")

    def __new__(cls, kind: PartKind, text: str, call_id: str = "", name: str = "") -> Self:
        piece = super().__new__(cls, text)
        piece.kind, piece.call_id, piece.name = kind, call_id, name
        return piece

    kind: PartKind
    call_id: str
    name: str

    def send(self, sink: ReplySink) -> None:
        match self.kind:
            case "reasoning":
                sink.reasoning(str(self))
            case "refusal":
                sink.refusal(str(self))
            case "tool_call":
                sink.tool_call(self.call_id, self.name, str(self))
            case _:
                raise AssertionError(f"a model sends no {self.kind}")


class ProviderCall:
    """One request for a reply. `closed` once nobody reads it any more."""

    def __init__(self, messages: tuple[ModelMessage, ...], parameters: Parameters) -> None:
        self.messages = messages
        self.parameters = parameters
        self.closed = False
        self.given: asyncio.Queue[str | Usage | Finish | LlmError] = asyncio.Queue()


class ManualProvider:
    """Implements chatbot.llm.provider.Provider. `calls` holds every request, in order."""

    name = "hand"
    model = "hand-model"
    models = frozenset({model})
    lists_models = False
    takes: frozenset[str] | None = TAKES_ALL

    def __init__(self) -> None:
        self.calls: list[ProviderCall] = []

    def context_tokens(self, model: str) -> int | None:
        return None

    async def stream(
        self,
        messages: tuple[ModelMessage, ...],
        parameters: Parameters,
        sink: ReplySink,
        *,
        stream: bool = True,
        route: Route | None = None,
    ) -> Finish:
        call = ProviderCall(messages, parameters)
        self.calls.append(call)
        try:
            while True:
                given = await call.given.get()
                if isinstance(given, LlmError):
                    raise given
                if isinstance(given, Finish):
                    return given
                if isinstance(given, Usage):
                    sink.usage(given)
                elif isinstance(given, PartPiece):
                    given.send(sink)
                else:
                    sink.text(given)
        finally:
            call.closed = True

    def call_for(self, seed: int | None) -> ProviderCall | None:
        """The newest request with this seed, which is what a test tells its replies apart by."""
        return next((call for call in reversed(self.calls) if call.parameters.seed == seed), None)

    async def health(self) -> Health:
        return Health(available=True)

    async def close(self) -> None: ...
