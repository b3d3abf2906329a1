"""Response bodies of the audit calls as types. The OpenAPI document is made from the same types."""

from msgspec import Struct

from chatbot.audit.event_view import EventView


class TrailView(Struct, frozen=True, omit_defaults=True):
    """Events of one session, oldest first."""

    session_id: str
    events: list[EventView]
    next: int | None = None


class PageEnd(Struct, frozen=True):
    """The last line of a filtered answer: continue after `next` while `more` is true. Pages may have no events."""

    next: int
    more: bool


class Closing(Struct, frozen=True, tag_field="type", tag="draining"):
    """The service stops, and the stream ends: reconnect after the time in its `retry:` line."""

    position: int


class LogHeadView(Struct, frozen=True):
    """The last event of the log and its digest. `origin` is the log's identity, as in checkpoints."""

    position: int
    digest: str
    origin: str


class ChainFault(Struct, frozen=True):
    """The first event that differs from what was recorded: its position, and the reason."""

    position: int
    reason: str


class WalkView(Struct, frozen=True, omit_defaults=True, rename={"start": "from", "end": "to"}):
    """The result of verifying the chain after `from` up to `to`. `digest` is that of the last valid event.

    `events` are valid, `erased` of them without their content. `unfinished_erasures` counts sessions that still have
    content before their session_deleted: DELETE of such a session finishes its erasure.
    """

    holds: bool
    start: int
    end: int
    events: int
    erased: int
    digest: str
    fault: ChainFault | None = None
    unfinished_erasures: int = 0
