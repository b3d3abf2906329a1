"""A bounded search for events, in the order of the log: each call looks at a limited number of them and says where to
go on.
"""

from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from chatbot.audit.search.event_filter import EventFilter
from chatbot.audit.search.session_selection import SessionSelector
from chatbot.runtime.throttle import PIECE_BYTES, PIECE_ROWS, DutyCycleThrottle, batched
from chatbot.sessions.history_chunks import split_into_chunks
from events.log import EventLog
from events.record import Envelope, StoredRow

SIZES_BATCH = 500  # events whose sizes are queried at once


class SearchQuery(Struct, frozen=True, kw_only=True):
    """Up to `limit` events that match, after position `after` and up to `end`, of about `scanned_max` looked at."""

    events: EventFilter
    after: int
    end: int
    limit: int
    scanned_max: int


class SearchPage(Struct, frozen=True):
    """The positions of events that match, and the position after which to go on. `more`: that is not the end."""

    positions: list[int]
    next: int
    more: bool


class ScannedPiece(Struct, frozen=True):
    """Envelopes that match among those up to position `reached`, `scanned` of them in this piece."""

    found: list[Envelope]
    scanned: int
    reached: int


async def scan_events(
    log: EventLog, events: EventFilter, sessions: SessionSelector, throttle: DutyCycleThrottle, span: tuple[int, int]
) -> AsyncIterator[ScannedPiece]:
    """The matching envelopes after span[0] up to span[1], piece by piece. Raises LogUnavailable."""
    reached, end = span
    while reached < end:
        async with throttle.piece():
            page = await log.envelopes(after=reached, limit=min(PIECE_ROWS, end - reached))
            candidates = [one for one in page if events.matches(one)]
            selected = await sessions.select({one.stream_id for one in candidates}) if candidates else ()
        if not page:
            return
        reached = page[-1].position
        yield ScannedPiece([one for one in candidates if one.stream_id in selected], len(page), reached)


async def search_events(
    log: EventLog, query: SearchQuery, sessions: SessionSelector, throttle: DutyCycleThrottle
) -> SearchPage:
    """The next page. Reads envelopes only. Following `next` until `more` is false gives each matching event once.

    Raises LogUnavailable.
    """
    found: list[int] = []
    reached, scanned = query.after, 0
    async for piece in scan_events(log, query.events, sessions, throttle, (query.after, query.end)):
        found += [one.position for one in piece.found]
        scanned, reached = scanned + piece.scanned, piece.reached
        if len(found) >= query.limit:
            found = found[: query.limit]
            reached = found[-1]
            break
        if scanned >= query.scanned_max:
            break
    return SearchPage(found, reached, reached < query.end)


async def read_rows(
    log: EventLog, positions: Sequence[int], throttle: DutyCycleThrottle
) -> AsyncIterator[list[StoredRow]]:
    """The rows at these positions, in chunks of about PIECE_BYTES. Raises LogUnavailable."""
    for batch in batched(positions, SIZES_BATCH):
        sizes = await log.sizes(batch)
        for piece in split_into_chunks(batch, lambda position, sizes=sizes: sizes.get(position, 0), PIECE_BYTES):  # type: ignore[misc]
            async with throttle.piece():
                rows = await log.rows_at(piece)
            yield [rows[position] for position in piece if position in rows]
