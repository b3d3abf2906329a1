"""Short ways to fill a log with texts and to see which texts were read."""

from events.catalogue import MessagePosted
from events.log import EventLog
from events.record import RecordedEvent
from tests.support.log.sample_events import ASKED, posted

ALL = 10_000  # a limit that no test reaches


def texts(recorded: list[RecordedEvent]) -> list[str | None]:
    return [event.event.content if isinstance(event.event, MessagePosted) else None for event in recorded]


async def fill(log: EventLog, stream_id: str, *contents: str) -> None:
    for version, content in enumerate(contents):
        await log.append(stream_id, version, [posted(content)], ASKED)
