"""What a message_redacted keeps of the events that it redacts, checked against the commitments in their rows."""

from binascii import a2b_base64
from collections.abc import Iterable

import msgspec

from events.catalogue import KeptEvent, MessageRedacted
from events.codec import event_type
from events.errors import UnknownEvent
from events.integrity.commitments import find_kept_fault
from events.integrity.erased_versions import redacted_versions
from events.integrity.row_checks import MALFORMED
from events.log import EventLog
from events.message_content import decode_kept, has_content, message_id_of
from events.record import StoredRow

PAGE_ROWS = 250  # of a session, read at once
PAGE_BYTES = 2**20  # or as many rows as have about this much content
CHECKPOINT = "reply_progressed"  # of a reply: nothing is left of it

_decode = msgspec.json.Decoder(MessageRedacted).decode


async def find_redaction_fault(log: EventLog, stream_id: str, version: int) -> tuple[int, str] | None:
    """The first event of which the message_redacted at `version` keeps something else than was recorded: its position,
    and why. Raises LogUnavailable.
    """
    row = await _row(log, stream_id, version)
    if row is None or row.data is None:  # erased meanwhile
        return None
    try:
        event = _decode(row.data)
    except MALFORMED as error:
        return row.position, f"the redaction cannot be read: {error}"
    named = await _rows(log, stream_id, redacted_versions(row))
    for kept in event.kept:
        redacted = named.get(kept.version)
        if redacted is None:
            return row.position, "the redaction keeps an event that it does not name"
        try:
            reason = _find_kept_fault(event, kept, redacted)
        except (*MALFORMED, UnknownEvent) as error:
            reason = f"what is left of it cannot be read: {error}"
        if reason is not None:
            return redacted.position, reason
        del named[kept.version]
    for other in named.values():
        if other.type != CHECKPOINT:  # of all other events of a message something is left
            return other.position, "a redaction names it, but it says of no message what is left of it"
    return None


def _find_kept_fault(redaction: MessageRedacted, kept: KeptEvent, row: StoredRow) -> str | None:
    """Raises ValueError, UnknownEvent for what cannot be decoded."""
    left = decode_kept(kept)
    kind = event_type(left)
    if kind != row.type:
        return "what is left of it is of another type"
    if message_id_of(left) != redaction.message_id:
        return "what is left of it is of another message"
    if kept.salt:
        return find_kept_fault(kind.encode(), kept.data.encode(), a2b_base64(kept.salt), row.commitment)
    # Only a redacted part of a message with parts leaves content without a proof: see events/schema/kept_event.py.
    is_of_one_part = redaction.part is not None and row.schema_version > 1
    if not isinstance(left, MessageRedacted) and not is_of_one_part and has_content(left):
        return "something is left of it that the redaction does not leave"
    return None


async def _row(log: EventLog, stream_id: str, version: int) -> StoredRow | None:
    return (await _rows(log, stream_id, (version,))).get(version)


async def _rows(log: EventLog, stream_id: str, versions: Iterable[int]) -> dict[int, StoredRow]:
    """The rows at these versions, by version."""
    found: dict[int, StoredRow] = {}
    wanted = frozenset(versions)
    left = sorted(wanted)
    while left and (
        page := await log.stream_rows(
            stream_id, after=left[0] - 1, limit=min(PAGE_ROWS, left[-1] - left[0] + 1), bytes_max=PAGE_BYTES
        )
    ):
        found |= {row.version: row for row in page if row.version in wanted}
        left = [version for version in left if version > page[-1].version]
    return found
