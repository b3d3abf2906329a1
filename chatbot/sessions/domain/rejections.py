"""Reasons to refuse a command. chatbot/api/problems.py maps each to an HTTP status."""

from collections.abc import Sequence
from typing import Any

from chatbot.runtime.fair_limit import Excess


class Rejection(Exception):
    """The session refused the command; nothing was recorded.

    `path` leads to the fault in the command's request, as in `$.message[2]`; None: no single field is at fault.
    `members` are what a client needs to correct it.
    """

    path: str | None = None

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.members: dict[str, Any] = {}


class SessionNotFound(Rejection):
    """There is no such session, or it belongs to another owner."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session {session_id} not found")


class SessionExpired(SessionNotFound):
    """The session has expired."""


class SessionDeleted(SessionNotFound):
    """The session was deleted."""


class SessionHeld(Rejection):
    """A legal hold covers the session: nothing of it may be erased. `reason` is that of the hold."""

    def __init__(self, session_id: str, hold_id: str, reason: str) -> None:
        super().__init__(f"session {session_id} is under a legal hold, so nothing of it is erased: {reason}")
        self.members = {"hold_id": hold_id, "reason": reason}


class VersionMismatch(Rejection):
    """The session is not at one of the versions that the request expects."""

    def __init__(self, expected: frozenset[int], current: int) -> None:
        super().__init__(f"the session is at version {current}, not {' or '.join(map(str, sorted(expected)))}")


class VersionBehind(Rejection):
    """The session has not reached the version that the request names."""

    def __init__(self, wanted: int, current: int) -> None:
        super().__init__(f"the session is at version {current}, not yet at {wanted}")


class UnknownMessage(Rejection):
    """The session has no such message."""

    def __init__(self, message_id: str) -> None:
        super().__init__(f"the session has no message {message_id}")


class UnknownReply(Rejection):
    """The session has no such reply."""

    path = "$.reply_id"

    def __init__(self, reply_id: str) -> None:
        super().__init__(f"the session has no reply {reply_id}")


class ParentUnanswered(Rejection):
    """A message can only follow a reply, and the parent that the request names is none."""

    path = "$.parent_id"

    def __init__(self) -> None:
        super().__init__("parent_id names a message that is no reply; a message follows a reply, or null")


class UnknownModel(Rejection):
    """The server's models are known, and the requested one is not among them."""

    path = "$.model"

    def __init__(self) -> None:
        super().__init__("is not a model that is offered; GET /api/models lists them")


class NothingToRegenerate(Rejection):
    """The session has no reply yet."""


class InvalidMessage(Rejection):
    """The message does not fit the conversation, or the service cannot keep it: `path` leads to the part."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(detail)
        self.path = path


class Unsupported(Rejection):
    """The model server does not take what the field at `path` asks for."""

    def __init__(self, feature: str, path: str) -> None:
        super().__init__(f"the model server does not take {feature}")
        self.path = path


class CallsOpen(Rejection):
    """The newest reply waits for results of its tool calls, and the request asked to be refused then."""

    def __init__(self, reply_id: str, call_ids: Sequence[str]) -> None:
        super().__init__("the newest reply waits for the results of its tool calls")
        self.members = {"reply_id": reply_id, "call_ids": list(call_ids)}


class NoOpenCalls(Rejection):
    """Results came after a message that is no reply with tool calls."""

    def __init__(self) -> None:
        super().__init__("the message that these results follow has no tool calls")


class CallsClosed(Rejection):
    """Results came for tool calls that were cancelled, or that the conversation went on without."""

    def __init__(self) -> None:
        super().__init__("these tool calls are closed: they were cancelled, or the conversation went on without them")


class CallsUnanswered(Rejection):
    """Results came for some of a reply's tool calls: one message has the results of all."""

    path = "$.message"

    def __init__(self, call_ids: Sequence[str]) -> None:
        super().__init__("results of some tool calls are missing: one message has those of all")
        self.members = {"call_ids": list(call_ids)}


class TooManyRounds(Rejection):
    """The turn has as many replies with tool calls as it may have."""

    path = "$.message"

    def __init__(self, rounds_max: int) -> None:
        super().__init__(f"the turn has {rounds_max} replies with tool calls already, and may have no more")


class KeyReused(Rejection):
    """This Idempotency-Key came with another request before."""


class KeyConsumed(Rejection):
    """The session that this Idempotency-Key made is gone: use a new key."""


class TooLarge(Rejection):
    """The change would make the session's metadata larger than is allowed."""


class ContextTooLong(Rejection):
    """The model's context is certainly smaller than the conversation, and nothing of that may be left out."""

    path = "$.messages"

    def __init__(self, estimated_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"the messages have about {estimated_tokens} tokens, and the model's context has {context_tokens}"
        )
        self.members = {"estimated_tokens": estimated_tokens, "context_tokens": context_tokens}


class NameConsumed(Rejection):
    """So many conversations of this name were deleted or have expired that it can name no other: use a new name."""


class MessageNotFound(Rejection):
    """The session has no message of this id."""

    def __init__(self, message_id: str) -> None:
        super().__init__(f"the session has no message {message_id[:64]}")


class NotQueued(Rejection):
    """The message does not wait for its reply any more, or is none that a person can take back."""

    def __init__(self) -> None:
        super().__init__("only a message whose reply is queued and has not started can be removed")


class TooManyAdded(TooLarge):
    """More messages of a transcript are new than one append may hold: they must be imported first."""

    def __init__(self) -> None:
        super().__init__("too many messages are new")


class SessionBusy(Rejection):
    """A reply is running, and the request asked to be refused then."""


class TooManyPending(Rejection):
    """Too many messages wait for the running reply of this session already."""


class Overloaded(Rejection):
    """The service is at one of its limits (backpressure); try again soon."""


class OverShare(Overloaded):
    """The caller's owner has its share of a limit already, and others need theirs; try again soon."""


def at_limit(excess: Excess, detail: str) -> Overloaded:
    """The rejection of what a FairLimit does not admit."""
    return OverShare(f"{detail}, and this key has its share") if excess == "over_share" else Overloaded(detail)


class Draining(Rejection):
    """The service is shutting down; try again in a moment."""


class ActorFailed(Exception):
    """The session's actor failed on this command; the next command starts a new actor."""
