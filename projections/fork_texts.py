"""What forks read of other sessions, as queries return it."""

from msgspec import Struct


class ReferencedTexts(Struct, frozen=True):
    """The texts that forks read among one page of a session's own texts, by position; `last` is the page's cursor."""

    last: str
    positions: tuple[int, ...]


class ReferencingFork(Struct, frozen=True):
    """A fork that reads another session's texts."""

    no: int
    session_id: str


class ForkReference(Struct, frozen=True):
    """A message of a fork whose text is in the event at `position`, which belongs to another session."""

    message_id: str
    position: int
    model: str | None


class ForkedMessage(Struct, frozen=True):
    """A session `no` that shows a message of which it has adopted; its text is in the event at `position`."""

    no: int
    session_id: str
    position: int
