"""Which messages the model is shown. Pure."""

from chatbot.sessions.state import Remembered

LOOK_BACK = 2  # times the limit: how far back messages are looked for when some of the newest are empty


def context_of(recent: dict[str, Remembered], leaf: str | None, limit: int) -> tuple[Remembered, ...] | None:
    """The newest `limit` messages of the branch that ends in `leaf`, oldest first; None when `recent` has a gap.

    Looks back over at most LOOK_BACK x `limit` messages, which is enough while questions are never empty.

    Empty messages (a reply that failed before its first token) are passed over: model servers refuse them. The
    context never starts with an assistant message, whose question would be missing.
    """
    newest_first: list[Remembered] = []
    for _ in range(LOOK_BACK * limit):
        if leaf is None or len(newest_first) == limit:
            break
        message = recent.get(leaf)
        if message is None:
            return None
        if message.content:
            newest_first.append(message)
        leaf = message.parent_id
    while newest_first and newest_first[-1].role == "assistant":
        newest_first.pop()
    return tuple(reversed(newest_first))
