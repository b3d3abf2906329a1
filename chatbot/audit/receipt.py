"""Receipts: what was erased, why, and where the log says so. The same over HTTP and on the command line."""

from msgspec import UNSET, Struct, UnsetType

from chatbot.runtime.clock import timestamp
from chatbot.sessions.domain.reasons import recorded_code
from events.catalogue import MessageRedacted, SessionDeleted
from events.log import EventLog
from events.record import RecordedEvent


class Receipt(Struct, frozen=True):
    """The content of `events_erased` events of a session is erased; `reason` and `at` are those of the event that says
    so: session_deleted for an erasure, message_redacted for a redaction.

    That event is at `position` of the log, with `digest` in its chain: `verify --from POSITION:DIGEST` begins there.
    `reason_code` and `ticket` are those that were named. `message_id` and `part` are those of a redaction.
    `signature`, if the service or the command has a key: see chatbot/audit/receipt_signature.py.
    """

    session_id: str
    events_erased: int | None
    reason: str
    at: str
    position: int | None = None
    digest: str | None = None
    kind: str = "erasure"
    reason_code: str | None = None
    ticket: str | None = None
    message_id: str | UnsetType = UNSET
    part: int | UnsetType = UNSET
    signature: str | UnsetType = UNSET


async def read_receipt(log: EventLog, session_id: str) -> Receipt | None:
    """The receipt of the session's erasure; None while it is not erased. Raises LogUnavailable."""
    newest = await log.read(session_id, limit=1, backwards=True)
    return await receipt_of(log, newest[0]) if newest and newest[0].type == "session_deleted" else None


async def receipt_of(log: EventLog, recorded: RecordedEvent) -> Receipt | None:
    """The receipt of the event that explains an erasure; None for any other event. Raises LogUnavailable."""
    event = recorded.event
    if isinstance(event, MessageRedacted):
        return await _redaction_receipt(log, recorded, event)
    if not isinstance(event, SessionDeleted):
        return None
    first = await _find_first(log, recorded)
    (row,) = await log.rows(after=first.position - 1, limit=1)
    return Receipt(
        session_id=recorded.stream_id,
        events_erased=first.version - 1,
        reason=event.reason,
        at=timestamp(first.recorded_at_us),
        position=first.position,
        digest=row.digest.hex(),
        reason_code=recorded_code(event.reason, event.reason_code),
        ticket=event.ticket,
    )


async def _find_first(log: EventLog, recorded: RecordedEvent) -> RecordedEvent:
    """The event that erased the session: one before `recorded` if the ticket was erased since."""
    while recorded.version > 1:
        (earlier,) = await log.read(recorded.stream_id, after=recorded.version - 2, limit=1)
        if earlier.type != recorded.type:
            return recorded
        recorded = earlier
    return recorded


async def _redaction_receipt(log: EventLog, recorded: RecordedEvent, event: MessageRedacted) -> Receipt:
    (row,) = await log.rows(after=recorded.position - 1, limit=1)
    return Receipt(
        session_id=recorded.stream_id,
        events_erased=event.events_erased,
        reason="redaction",
        at=timestamp(recorded.recorded_at_us),
        position=recorded.position,
        digest=row.digest.hex(),
        kind="redaction",
        reason_code=event.reason_code,
        ticket=event.ticket,
        message_id=event.message_id,
        part=UNSET if event.part is None else event.part,
    )
