"""Events as an auditor reads them: the envelope, the stored text of the content, and what proves both.

From these members alone anyone can compute the event's commitment and, with the digest of the event before it in the
log, its digest, as `events/integrity/hash_chain.py` says: `data` is the stored text itself, byte for byte, and so is
`metadata`.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from chatbot.llm.provider import without_server_words
from chatbot.runtime.timestamps import timestamp
from events.record import Metadata, StoredRow, decode_metadata

REPLY_FAILED = "reply_failed"
PAGE_ROWS = 50  # rows read at once, a quarter of a millisecond: what a reader of any number of events holds


class RowSource(Protocol):
    """What a trail is read from: a log, or one that takes its time."""

    async def rows(self, *, after: int = 0, limit: int) -> list[StoredRow]: ...

    async def stream_rows(self, stream_id: str, *, after: int = 0, limit: int) -> list[StoredRow]: ...


class EventView(Struct, frozen=True, omit_defaults=True):
    """One event of the log. `data` and `salt` are null once the content is erased; hashes are hexadecimal.

    `withheld`: a part of `data` is for auditors only and left out, so `salt` is null: the commitment is of the whole.
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
    """The event in `row`, also in one that no log has written: what is shown then gives it away."""
    metadata = _metadata(row.metadata)
    return EventView(
        position=row.position,
        session_id=_text(row.stream_id),
        version=row.version,
        type=_text(row.type),
        schema_version=row.schema_version,
        recorded_at=_time(row.recorded_at_us),
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
    """The event in `row` as one line of JSON, without its end."""
    return _encode(event_view(row))


def encode_row_for_client(row: StoredRow) -> bytes:
    """As `encode_row`, for who is no auditor: what a model server said of a failure is left out."""
    view = event_view(row)
    if row.type == REPLY_FAILED and row.data is not None:
        public = _redact_detail(row.data)
        if public != row.data:
            view = replace(view, data=_as_raw_json(public), salt=None, withheld=True)
    return _encode(view)


def _redact_detail(data: str) -> str:
    """The data of a reply_failed without a model server's own words; what is no such event stays as it is."""
    try:
        members = msgspec.json.decode(data, type=dict[str, Raw])
        detail = without_server_words(msgspec.json.decode(members["detail"], type=str))
        members["detail"] = Raw(_encode(detail))
        return _encode(members).decode()
    except (msgspec.DecodeError, UnicodeEncodeError, KeyError):
        return data


async def read_session_rows(log: RowSource, session_id: str, after: int, limit: int) -> AsyncIterator[list[StoredRow]]:
    """Up to `limit` rows of a session, version > `after`, a page at a time: a slow reader holds one page."""
    while limit > 0 and (page := await log.stream_rows(session_id, after=after, limit=min(PAGE_ROWS, limit))):
        yield page
        limit -= len(page)
        after = page[-1].version


async def read_log_rows(log: RowSource, after: int, limit: int) -> AsyncIterator[list[StoredRow]]:
    """As `trail_of`, of the whole log: rows with position > `after`."""
    while limit > 0 and (page := await log.rows(after=after, limit=min(PAGE_ROWS, limit))):
        yield page
        limit -= len(page)
        after = page[-1].position


def _as_raw_json(data: str) -> Raw:
    """The stored text as it is; in quotes where it is not one line of JSON, which no log writes."""
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


def _time(us: int) -> str:
    """A number of microseconds that is no time of our calendar is shown as that number."""
    try:
        return timestamp(us)
    except (ValueError, OverflowError, OSError):
        return str(us)


def _text(stored: str) -> str:
    """Bytes that are no UTF-8 as question marks."""
    return stored.encode(errors="replace").decode()
