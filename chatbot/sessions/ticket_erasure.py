"""Erasing the ticket of an erasure: where tickets name people, it is personal data that outlives the session."""

from msgspec.structs import replace

from chatbot.sessions.domain import rejections
from chatbot.sessions.ports import Holds
from events.catalogue import SessionDeleted
from events.errors import LogUnavailable, VersionConflict
from events.log import EventLog
from events.record import Metadata, RecordedEvent

ROUNDS_MAX = 8  # lost races with other writers before giving up


async def erase_ticket(log: EventLog, holds: Holds, session_id: str, origin: Metadata) -> RecordedEvent | None:
    """The event that explains the session's erasure, without a ticket: another session_deleted without it is recorded,
    and the content of the one before is erased. None: the session is not erased.

    Raises SessionHeld, LogUnavailable.
    """
    for _ in range(ROUNDS_MAX):
        newest = await log.read(session_id, limit=1, backwards=True)
        if not newest or not isinstance(newest[0].event, SessionDeleted):
            return None
        deleted = newest[0].event
        if deleted.ticket is None:
            return newest[0]
        found = await holds.find(session_id, deleted.owner, {})
        if found.hold is not None:
            raise rejections.SessionHeld(session_id, found.hold.hold_id, found.hold.reason)
        again = replace(deleted, ticket=None)
        try:
            recorded = await log.erase(session_id, newest[0].version, again, origin, unchanged=found.unchanged)
        except VersionConflict:
            continue
        return recorded[0]
    raise LogUnavailable("others keep writing to this session or to the holds; try again")
