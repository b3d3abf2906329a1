"""The JSON view of an event for auditors: envelope, content as stored, and the hashes that prove both.

From these members alone anyone can compute the event's commitment and, with the digest of the event before it in the
log, its digest (events/integrity/hash_chain.py): `data` and `metadata` are the stored text, byte for byte.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from chatbot.llm.provider import without_server_words
from chatbot.runtime.clock import timestamp
from events.codec import decode_metadata
from events.record import Metadata, StoredRow

REPLY_FAILED = "reply_failed"
PAGE_ROWS = 50  # rows read at once, which takes 0.25 ms: bounds the memory of a response of any length


class RowSource(Protocol):
    """What an event history is read from: a log, or a throttled one."""

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]: ...

    async def stream_rows(self, stream_id: str, *, after: int = 0, limit: int) -> list[StoredRow]: ...


class EventView(Struct, frozen=True, omit_defaults=True):
    """One event of the log. `data` and `salt` are null once the content is erased; hashes are hexadecimal.

    `withheld`: a part of `data` is for auditors only and was removed, so `salt` is null: the commitment is over all.
    """

    position: int
    session_id: str
    version: int
    type: str
    schema_version: int
    recorded_at: str
    actor: str | None
    request_id: str | None
    cause: str | None
    data: Raw | None
    metadata: str
    salt: str | None
    commitment: str
    digest: str
    withheld: bool = False


_encode = msgspec.json.Encoder().encode


def event_view(row: StoredRow) -> EventView:
    """The event in `row`. Never raises for a row that was tampered with: the view shows what is stored."""
    metadata = _metadata(row.metadata)
    return EventView(
        position=row.position,
        session_id=_text(row.stream_id),
        version=row.version,
        type=_text(row.type),
        schema_version=row.schema_version,
        recorded_at=format_time(row.recorded_at_us),
        actor=metadata.actor,
        request_id=metadata.request_id,
        cause=metadata.cause,
        data=None if row.data is None else _as_raw_json(row.data),
        metadata=_text(row.metadata),
        salt=None if row.salt is None else row.salt.hex(),
        commitment=row.commitment.hex(),
        digest=row.digest.hex(),
    )


def encode_row(row: StoredRow) -> bytes:
    """The event in `row` as one line of JSON, without a line feed."""
    return _encode(event_view(row))


def encode_row_for_client(row: StoredRow) -> bytes:
    """As `encode_row`, for a client that is no auditor: a model server's own words about a failure are left out."""
    view = event_view(row)
    if row.type == REPLY_FAILED and row.data is not None:
        public = _redact_detail(row.data)
        if public != row.data:
            view = replace(view, data=_as_raw_json(public), salt=None, withheld=True)
    return _encode(view)


def _redact_detail(data: str) -> str:
    """The data of a reply_failed without a model server's own words; unchanged where it cannot be decoded."""
    try:
        members = msgspec.json.decode(data, type=dict[str, Raw])
        detail = without_server_words(msgspec.json.decode(members["detail"], type=str))
        members["detail"] = Raw(_encode(detail))
        return _encode(members).decode()
    except (msgspec.DecodeError, UnicodeEncodeError, KeyError):
        return data


async def read_session_rows(log: RowSource, session_id: str, after: int, limit: int) -> AsyncIterator[list[StoredRow]]:
    """Up to `limit` rows of a session, version > `after`, page by page."""
    while limit > 0 and (page := await log.stream_rows(session_id, after=after, limit=min(PAGE_ROWS, limit))):
        yield page
        limit -= len(page)
        after = page[-1].version


async def read_log_rows(log: RowSource, after: int, limit: int) -> AsyncIterator[list[StoredRow]]:
    """Up to `limit` rows of the whole log, position > `after`, page by page."""
    while limit > 0 and (page := await log.rows(after=after, limit=min(PAGE_ROWS, limit))):
        yield page
        limit -= len(page)
        after = page[-1].position


def _as_raw_json(data: str) -> Raw:
    """The stored text as it is; as a JSON string where it is not one line of JSON, which no log writes."""
    try:
        stored = data.encode()
        is_one_line = b"\n" not in stored and b"\r" not in stored
        if is_one_line and bytes(msgspec.json.decode(stored, type=Raw)) == stored:
            return Raw(stored)
    except (UnicodeEncodeError, msgspec.DecodeError):
        pass
    return Raw(_encode(_text(data)))


def _metadata(text: str) -> Metadata:
    try:
        return decode_metadata(text)
    except (ValueError, UnicodeEncodeError):
        return Metadata()


def format_time(us: int) -> str:
    """RFC 3339; the number itself where no calendar has that time, as in a row that no log writes."""
    try:
        return timestamp(us)
    except (ValueError, OverflowError, OSError):
        return str(us)


def _text(stored: str) -> str:
    """Bytes that are not UTF-8 become question marks."""
    return stored.encode(errors="replace").decode()
