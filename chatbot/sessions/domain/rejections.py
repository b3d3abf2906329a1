"""Reasons to refuse a command. chatbot/api/problems.py maps each to an HTTP status."""


class Rejection(Exception):
    """The session refused the command; nothing was recorded."""


class SessionNotFound(Rejection):
    """There is no such session, or it belongs to another owner."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Session {session_id} not found")


class SessionExpired(SessionNotFound):
    """The session has expired."""


class SessionDeleted(SessionNotFound):
    """The session was deleted."""


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

    def __init__(self, reply_id: str) -> None:
        super().__init__(f"the session has no reply {reply_id}")


class ParentUnanswered(Rejection):
    """A message can only follow a reply, and the parent that the request names is a user's message."""

    def __init__(self) -> None:
        super().__init__("parent_id names a message of the user; a message follows a reply, or null")


class UnknownModel(Rejection):
    """The server's models are known, and the requested one is not among them."""

    def __init__(self) -> None:
        super().__init__("is not a model that is offered; GET /api/models lists them")


class NothingToRegenerate(Rejection):
    """The session has no reply yet."""


class KeyReused(Rejection):
    """This Idempotency-Key came with another request before."""


class KeyConsumed(Rejection):
    """The session that this Idempotency-Key made is gone: use a new key."""


class TooLarge(Rejection):
    """The change would make the session's metadata larger than is allowed."""


class SessionBusy(Rejection):
    """A reply is running, and the request asked to be refused then."""


class TooManyPending(Rejection):
    """Too many messages wait for the running reply of this session already."""


class Overloaded(Rejection):
    """The service is at one of its limits (backpressure); try again soon."""


class Draining(Rejection):
    """The service is shutting down; try again in a moment."""


class ActorFailed(Exception):
    """The session's actor failed on this command; the next command starts a new actor."""
