"""Sessions by metadata that they have or once had: the projections know the present one only, the log knows all."""

from collections.abc import Mapping

from events.catalogue import MetadataChanged, SessionCreated
from events.log import EventLog
from projections.labels import matches

PAGE = 1_000  # events looked at together, without their contents
_DESCRIBES = frozenset({"session_created", "metadata_changed"})


async def find_sessions(log: EventLog, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Ids of the sessions whose metadata had all these entries at one time, the newest such event first.

    Reads the whole log. What is erased is not found. Raises LogUnavailable.
    """
    found: dict[str, int] = {}
    after = 0
    while page := await log.outlines(after=after, limit=PAGE):
        after = page[-1].position
        recorded = await log.read_at([one.position for one in page if one.type in _DESCRIBES])
        for position in sorted(recorded):
            event = recorded[position].event
            if isinstance(event, SessionCreated | MetadataChanged) and matches(event.metadata, metadata):
                found.setdefault(recorded[position].stream_id, position)
    return tuple(sorted(found, key=lambda session_id: found[session_id], reverse=True))
