"""Redaction as a session does it, for tests of what keeps a log."""

from events.catalogue import MessageRedacted
from events.log import EventLog
from events.message_content import MessageContent
from tests.support.log.log_texts import ALL
from tests.support.log.sample_events import ASKED


async def redact(
    log: EventLog, stream_id: str, message_id: str, part: int | None = None, reason_code: str = "asked"
) -> MessageRedacted:
    content = MessageContent(message_id)
    rows = await log.stream_rows(stream_id, limit=ALL)
    content.add(rows)
    event = content.redact(MessageRedacted(message_id, reason_code, part, ticket="T-1"))
    await log.erase(stream_id, rows[-1].version, event, ASKED)
    return event
