"""Which messages the model is shown. Pure."""

from chatbot.sessions.state import Remembered


def context_of(recent: dict[str, Remembered], leaf: str | None, limit: int) -> tuple[Remembered, ...] | None:
    """The newest `limit` messages of the branch that ends in `leaf`, oldest first; None when `recent` has a gap.

    Empty messages (a reply that failed before its first token) are passed over: model servers refuse them. The
    context never starts with an assistant message, whose question would be missing.
    """
    newest_first: list[Remembered] = []
    while leaf is not None and len(newest_first) < limit:
        message = recent.get(leaf)
        if message is None:
            return None
        if message.content:
            newest_first.append(message)
        leaf = message.parent_id
    while newest_first and newest_first[-1].role == "assistant":
        newest_first.pop()
    return tuple(reversed(newest_first))
