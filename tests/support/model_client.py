"""Asks a provider as a session would, and keeps what came."""

from contextlib import aclosing
from typing import Any

from msgspec import Struct

from chatbot.llm.protocol import ChatMessage, Finish, Provider
from events.catalogue import Parameters


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
    async with aclosing(provider.stream(messages, Parameters(**parameters))) as stream:
        async for piece in stream:
            if isinstance(piece, Finish):
                answer.finish = piece
            else:
                answer.pieces.append(piece)
    return answer
