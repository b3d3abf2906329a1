"""The fold of the stream `holds`: which holds are in force. Pure."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from events.catalogue import HOLDS, HoldAdded, HoldReleased, HoldsForgotten
from events.record import RecordedEvent, StreamVersion
from events.schema.hold_events import Hold
from projections.folds.blind_index import metadata_matches


class HoldState(Struct, frozen=True):
    """The holds in force after version `version` of the stream, by id, in the order in which they were added.

    `released` counts the holds that have ended and that the stream still describes.
    """

    version: int = 0
    holds: Mapping[str, Hold] = {}
    released: int = 0


class HoldCheck(Struct, frozen=True):
    """`hold`: one that covers the session; None: none does at `unchanged`, the version of the stream of holds."""

    hold: Hold | None
    unchanged: StreamVersion


NOT_HELD = HoldCheck(None, StreamVersion(HOLDS, 0))


class NoHolds:
    """Of a service without legal holds: tests."""

    async def version(self) -> int:
        return 0

    async def find(self, session_id: str, owner: str | None, metadata: Mapping[str, Any]) -> HoldCheck:
        return NOT_HELD


def evolve(state: HoldState, recorded: RecordedEvent) -> HoldState:
    """The state after one more event of the stream. An erased event is followed by one that says what is left."""
    holds, released = dict(state.holds), state.released
    match recorded.event:
        case HoldAdded() as added:
            holds[added.hold_id] = Hold(
                hold_id=added.hold_id,
                reason=added.reason,
                added_at_us=recorded.recorded_at_us,
                ticket=added.ticket,
                session_id=added.session_id,
                owner=added.owner,
                metadata=added.metadata,
                added_by=recorded.metadata.actor,
            )
        case HoldReleased(hold_id=hold_id):
            released += holds.pop(hold_id, None) is not None
        case HoldsForgotten(holds=kept):
            holds, released = {hold.hold_id: hold for hold in kept}, 0
        case _:  # erased, or of a newer program that may be ignored
            pass
    return HoldState(recorded.version, holds, released)


def find_hold(state: HoldState, session_id: str, owner: str | None, metadata: Mapping[str, Any]) -> Hold | None:
    """A hold on this session by its id, its owner or these metadata; None if there is none."""
    return next((hold for hold in state.holds.values() if covers(hold, session_id, owner, metadata)), None)


def covers(hold: Hold, session_id: str, owner: str | None, metadata: Mapping[str, Any]) -> bool:
    """Whether the hold is on this session by its id, its owner or these metadata."""
    if hold.session_id == session_id or (hold.owner is not None and hold.owner == owner):
        return True
    return hold.metadata is not None and bool(hold.metadata) and metadata_matches(metadata, hold.metadata)
