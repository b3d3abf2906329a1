"""What a fork has of the session that it continues."""

from msgspec import Struct


class Origin(Struct, frozen=True):
    """The source of a fork: the history of session `session_id`, at `version`, up to `message_id` (None: empty)."""

    session_id: str
    version: int
    message_id: str | None


class AdoptedMessage(Struct, frozen=True, omit_defaults=True):
    """A message that a fork has inherited from another session. Its text is in the event at log position `position`.

    `calls`: the state of a reply's tool calls (open, answered or closed) when the fork was created; None: it has none.
    """

    message_id: str
    parent_id: str | None
    role: str
    status: str
    position: int
    created_at_us: int
    model: str | None = None
    calls: str | None = None
