"""The events of the reserved stream `holds`: legal holds. Nothing of a session under a hold is erased."""

from events.schema.event import ReservedEvent


class HoldAdded(ReservedEvent, frozen=True, tag="hold_added"):
    """A hold on one session, on all sessions of an owner, or on all with these metadata: exactly one of them is set."""

    hold_id: str
    reason: str
    ticket: str | None = None
    session_id: str | None = None
    owner: str | None = None
    metadata: dict[str, str] | None = None


class HoldReleased(ReservedEvent, frozen=True, tag="hold_released"):
    """The hold has ended."""

    hold_id: str
    reason: str
    ticket: str | None = None


HoldEvent = HoldAdded | HoldReleased
