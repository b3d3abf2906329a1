"""Redaction of a message, or one of its parts: which events of a session contain it, and what is left of them."""

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from events.catalogue import (
    MESSAGE_REDACTED,
    MESSAGE_TYPES,
    AnyEvent,
    KeptEvent,
    MessageCopied,
    MessageEvent,
    MessagePosted,
    MessageRedacted,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
)
from events.codec import decode, encode, is_known, schema_version_of
from events.integrity.commitments import kept_salt
from events.integrity.hash_chain import SALT_BYTES
from events.log import EventLog
from events.record import StoredRow
from events.schema.parts import Parts, Redacted, media_of, parts_of, text_of, with_redacted

PAGE_ROWS = 250  # of the session, read at once
PAGE_BYTES = 2**20  # or as many rows as have about this much content
_TYPES = MESSAGE_TYPES | {"reply_progressed", MESSAGE_REDACTED}


class _Tag(Struct):
    type: str


class _Content(Struct, frozen=True):
    """The content of an event of the message: as it is in its row or, `is_kept`, what an earlier redaction left."""

    event: AnyEvent
    data: bytes
    salt: bytes = b""
    is_kept: bool = False


class MessageContent:
    """The events of one message in one session, added row by row, in order; an earlier redaction of it is one of them.
    `parts` are those of the message as it is now; None: no event contains it.
    """

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.versions: set[int] = set()
        self._redactions: dict[int, int | None] = {}  # earlier ones: their versions, and the part of each
        self._contents: dict[int, _Content] = {}

    def add(self, rows: Iterable[StoredRow]) -> None:
        """Raises ValueError for a damaged row."""
        for row in rows:
            if row.type not in _TYPES or row.data is None or not is_known(row.type, row.schema_version):
                continue
            if self.message_id in row.data:
                self._add(row, decode(row.type, row.schema_version, row.data), row.data.encode(), row.salt or b"")

    def _add(self, row: StoredRow, event: AnyEvent, data: bytes, salt: bytes) -> None:
        if message_id_of(event) != self.message_id:
            return
        if isinstance(event, MessageRedacted):
            self._add_redaction(row.version, event)
            if not event.versions:
                return
        self.versions.add(row.version)
        if not isinstance(event, ReplyProgressed):
            self._contents[row.version] = _Content(event, data, salt)

    def _add_redaction(self, version: int, event: MessageRedacted) -> None:
        self._redactions[version] = event.part
        self.versions.update(event.versions)
        for kept_version, content in _kept_contents(event):
            self._contents[kept_version] = content
            if isinstance(content.event, MessageRedacted):
                self._redactions[kept_version] = content.event.part

    def find_redaction(self, part: int | None) -> int | None:
        """The version of the first redaction of this part, or (None) of the whole message; None: there is none."""
        found = (version for version, redacted in self._redactions.items() if redacted is None or redacted == part)
        return min(found, default=None)

    @property
    def parts(self) -> Parts | None:
        version = self._newest
        return None if version is None else parts_of(_message_of(self._contents[version]))

    @property
    def _newest(self) -> int | None:
        """The version of the event that has the message as readers see it: of a reply with attempts, the last one."""
        return max(
            (version for version, one in self._contents.items() if not isinstance(one.event, MessageRedacted)),
            default=None,
        )

    def redact(self, request: MessageRedacted) -> MessageRedacted:
        """`request`, which names the message, with what its transaction erases and keeps. Of earlier attempts of a
        reply, which no reader sees, all parts are redacted.
        """
        newest = self._newest
        kept = []
        files: dict[str, None] = {}
        for version, content in sorted(self._contents.items()):
            part = request.part if version == newest else None
            left = _redacted(content.event, part, request.reason_code)
            kept.append(_kept(version, content, left))
            if not isinstance(left, MessageRedacted):
                files |= dict.fromkeys(one.sha256 for one in media_of(_message_of_event(left).parts))
        versions = tuple(sorted(self.versions))
        return replace(request, events_erased=len(versions), versions=versions, kept=tuple(kept), files=tuple(files))


async def read_content(log: EventLog, session_id: str, message_id: str) -> MessageContent:
    """Reads the whole session. Raises LogUnavailable."""
    content, after = MessageContent(message_id), 0
    while page := await log.stream_rows(session_id, after=after, limit=PAGE_ROWS, bytes_max=PAGE_BYTES):
        content.add(page)
        after = page[-1].version
    return content


def message_id_of(event: AnyEvent) -> str | None:
    """The message that the event contains, or that it redacts; None: neither."""
    match event:
        case MessagePosted() | MessageCopied() | MessageRedacted():
            return event.message_id
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted() | ReplyProgressed():
            return event.reply_id
        case _:
            return None


def has_content(event: AnyEvent) -> bool:
    """Whether anything is left of the message that the event contains. Raises TypeError for any other event."""
    message = _message_of_event(event)
    return bool(message.content) or not all(isinstance(part, Redacted) for part in message.parts)


def decode_kept(kept: KeptEvent) -> AnyEvent:
    """The event that is left. Raises ValueError, UnknownEvent."""
    return decode(msgspec.json.decode(kept.data, type=_Tag).type, kept.schema_version, kept.data)


def _kept_contents(event: MessageRedacted) -> Iterator[tuple[int, _Content]]:
    for kept in event.kept:
        yield kept.version, _Content(decode_kept(kept), kept.data.encode(), a2b_base64(kept.salt), is_kept=True)


def _kept(version: int, content: _Content, left: AnyEvent) -> KeptEvent:
    data = encode(left)
    kind = msgspec.json.decode(data, type=_Tag).type
    salt = b""
    if len(content.salt) > SALT_BYTES:
        salt = kept_salt(kind.encode(), (content.data, content.salt), data, is_kept=content.is_kept)
    return KeptEvent(version, schema_version_of(kind, left), data.decode(), b2a_base64(salt, newline=False).decode())


def _redacted(event: AnyEvent, part: int | None, reason_code: str) -> AnyEvent:
    """`event` without the content. A fingerprint is a hash of the content; a node is not needed once a reply ended."""
    if isinstance(event, MessageRedacted):
        return replace(event, versions=(), kept=(), files=())
    message = _message_of_event(event)
    parts = with_redacted(parts_of(message), part, reason_code)
    changes = {"parts": parts, "content": text_of(parts)}
    match message:
        case MessagePosted():
            key = None if _names_content(message) else message.idempotency_key
            client_id = None if part is None else message.client_id
            return replace(message, **changes, client_id=client_id, idempotency_key=key, fingerprint=None, node=None)
        case ReplyFailed() if part is None:
            return replace(message, **changes, detail="")
        case ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted() | MessageCopied():
            return replace(message, **changes)
        case _:
            assert_never(message)


def _names_content(message: MessagePosted) -> bool:
    """Whether the key has a hash of the content in it, as the service makes one for a front end that sends none."""
    key, fingerprint = message.idempotency_key, message.fingerprint
    return bool(key is not None and fingerprint and key.endswith(fingerprint))


def _message_of(content: _Content) -> MessageEvent:
    return _message_of_event(content.event)


def _message_of_event(event: AnyEvent) -> MessageEvent:
    """Raises TypeError for any other event."""
    if not isinstance(event, MessageEvent):
        raise TypeError(f"{type(event).__name__} contains no message")
    return event
