"""Asks a provider as a session would, and keeps what came."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    ChatMessage,
    Finish,
    Provider,
    TextSink,
)
from events.catalogue import Parameters

P = TypeVar("P", bound=Provider)


class MakeProvider(Protocol):
    """A fixture: makes a provider of one kind with these options, and closes it after the test."""

    def __call__(self, kind: Callable[[LlmOptions], P], **options: Any) -> P: ...


class Answer(Struct):
    """Everything one reply brought."""

    pieces: list[str]
    finish: Finish | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


async def ask(
    provider: Provider, text: str = "hello there", *, into: Answer | None = None, **parameters: Any
) -> Answer:
    """The whole reply; with `into` also what came before an error."""
    answer = into or Answer([])
    messages = (ChatMessage("user", text),)
    answer.finish = await provider.stream(messages, Parameters(**parameters), TextSink(answer.pieces.append))
    return answer
