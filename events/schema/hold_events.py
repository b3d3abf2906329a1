"""The events of the reserved stream `holds`: legal holds. Nothing of a session under a hold is erased."""

from msgspec import Struct

from events.schema.event import ReservedEvent, Traits


class Hold(Struct, frozen=True, omit_defaults=True):
    """A hold that is in force: on one session, on all sessions of an owner, or on all that have or had these metadata.

    `added_by` is the name of the API key, None: no key. Metadata values are compared as texts (12, true, null).
    """

    hold_id: str
    reason: str
    added_at_us: int
    ticket: str | None = None
    session_id: str | None = None
    owner: str | None = None
    metadata: dict[str, str] | None = None
    added_by: str | None = None


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


class HoldsForgotten(ReservedEvent, frozen=True, tag="holds_forgotten"):
    """What the stream says of holds that were released is erased in the same transaction: reasons, tickets and metadata
    may name people. `holds` are those in force, as the events that added them are erased, too.
    """

    traits = Traits(is_access=False, holds_message=False, explains_erasure=True)

    holds: tuple[Hold, ...]


HoldEvent = HoldAdded | HoldReleased | HoldsForgotten
