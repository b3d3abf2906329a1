"""Reading a stream page by page."""

from collections.abc import AsyncIterator

from events.log import EventLog
from events.record import RecordedEvent


async def read_pages(
    log: EventLog, stream_id: str, *, after: int = 0, page_max: int
) -> AsyncIterator[list[RecordedEvent]]:
    """The events of a stream after version `after`, in pages of up to `page_max`, none of them empty.

    Ends with the first page that is not full, so that a short stream costs one read. Raises LogUnavailable.
    """
    while page := await log.read(stream_id, after=after, limit=page_max):
        yield page
        if len(page) < page_max:
            return
        after = page[-1].version
