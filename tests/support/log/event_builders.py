"""Short ways to say what happens in a conversation, for tests to which only its shape matters."""

from typing import Any

from events.catalogue import (
    ContentErased,
    Event,
    MessagePosted,
    Parameters,
    ReplyCompleted,
    ReplyStarted,
    SessionCreated,
    Usage,
    UsageTotal,
)

TIMEOUT_S = 3_600


def created(owner: str | None = "alice", title: str | None = None, **metadata: Any) -> SessionCreated:
    return SessionCreated(owner=owner, metadata=metadata, timeout_s=TIMEOUT_S, title=title)


def posted(message_id: str, parent_id: str | None = None, reply_id: str | None = None) -> MessagePosted:
    return MessagePosted(message_id, parent_id, "user", f"words of {message_id}", reply_id)


def started(reply_id: str, parent_id: str, model: str = "small") -> ReplyStarted:
    return ReplyStarted(reply_id, parent_id, "node", "midm", model, Parameters(), (parent_id,))


def completed(reply_id: str, prompt: int = 10, completion: int = 20, model: str = "small") -> ReplyCompleted:
    usage = Usage(prompt, completion, prompt + completion)
    return ReplyCompleted(reply_id, f"answer {reply_id}", "stop", model, 1_000, usage)


def turn(n: int, parent_id: str | None = None) -> tuple[Event, ...]:
    """Message m<n> under `parent_id`, and its reply r<n>, complete."""
    return posted(f"m{n}", parent_id, f"r{n}"), started(f"r{n}", f"m{n}"), completed(f"r{n}")


def turns(count: int) -> tuple[Event, ...]:
    """A straight conversation m1, r1, m2, r2 ..."""
    return tuple(event for n in range(1, count + 1) for event in turn(n, f"r{n - 1}" if n > 1 else None))


def emptied(*usage: UsageTotal, owner: str | None = "alice") -> ContentErased:
    return ContentErased(reason="asked", events_erased=1, timeout_s=TIMEOUT_S, owner=owner, usage=usage)
