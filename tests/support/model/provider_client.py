"""Asks a provider as a session would, and keeps what came."""

from collections.abc import Callable
from itertools import groupby
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import (
    ChatMessage,
    Finish,
    Provider,
    TextSink,
)
from events.catalogue import Parameters, Usage
from events.schema.parts import Part, Parts, Reasoning, Refusal, Text, ToolCall

P = TypeVar("P", bound=Provider)


class MakeProvider(Protocol):
    """A fixture: makes a provider of one kind with these options, and closes it after the test."""

    def __call__(self, kind: Callable[[LlmOptions], P], **options: Any) -> P: ...


class PartsSink:
    """A ReplySink that keeps what comes: pieces of one part that follow each other are put together."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []  # each piece as it came: its kind, a call's id and name, its text
        self.usages: list[Usage] = []

    def text(self, piece: str) -> None:
        if piece:  # else a sign of life
            self.calls.append(("text", piece))

    def reasoning(self, piece: str) -> None:
        self.calls.append(("reasoning", piece))

    def refusal(self, piece: str) -> None:
        self.calls.append(("refusal", piece))

    def tool_call(self, call_id: str, name: str, arguments: str) -> None:
        self.calls.append(("tool_call", call_id, name, arguments))

    def usage(self, usage: Usage) -> None:
        self.usages.append(usage)

    @property
    def parts(self) -> Parts:
        """In the order in which they came."""
        parts: list[Part] = []
        for key, pieces in groupby(self.calls, lambda call: call[:-1]):
            text = "".join(call[-1] for call in pieces)
            match key:
                case ("text",):
                    parts.append(Text(text))
                case ("reasoning",):
                    parts.append(Reasoning(text))
                case ("refusal",):
                    parts.append(Refusal(text))
                case (_, call_id, name):
                    parts.append(ToolCall(call_id, name, text))
                case _:
                    raise AssertionError(key)
        return tuple(parts)


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
