"""Which messages the model is shown, and in which form. Pure."""

from collections.abc import Iterable
from typing import Literal

from chatbot.llm.protocol import ChatMessage
from chatbot.sessions.state import Remembered

LOOK_BACK = 2  # times the limit: how far back messages are looked for when some of the newest are empty

# What becomes of messages that got no reply: many model servers refuse two messages of one role in a row.
Unanswered = Literal["omit", "join"]


def context_of(
    recent: dict[str, Remembered], leaf: str | None, limit: int, unanswered: Unanswered
) -> tuple[Remembered, ...] | None:
    """The newest `limit` messages of the branch that ends in `leaf`, oldest first; None when `recent` has a gap.

    Looks back over at most LOOK_BACK x `limit` messages.

    Empty messages (a reply that failed before its first token) are passed over: model servers refuse them. With
    `omit` so is a message that the next one shown has the role of, so that roles alternate. The context never starts
    with an assistant message, whose question would be missing.
    """
    newest_first: list[Remembered] = []
    for _ in range(LOOK_BACK * limit):
        if leaf is None or len(newest_first) == limit:
            break
        message = recent.get(leaf)
        if message is None:
            return None
        is_answered = not newest_first or newest_first[-1].role != message.role
        if message.content and (is_answered or unanswered == "join"):
            newest_first.append(message)
        leaf = message.parent_id
    while newest_first and newest_first[-1].role == "assistant":
        newest_first.pop()
    return tuple(reversed(newest_first))


def joined(messages: Iterable[ChatMessage]) -> tuple[ChatMessage, ...]:
    """`messages` with a blank line in place of each border between two of one role."""
    kept: list[ChatMessage] = []
    for message in messages:
        if kept and kept[-1].role == message.role:
            kept[-1] = ChatMessage(message.role, f"{kept[-1].content}\n\n{message.content}")
        else:
            kept.append(message)
    return tuple(kept)
