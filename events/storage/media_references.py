"""Which files rows refer to: what a store's tables of references are made of, for appends and for copies alike."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from events.integrity.hash_chain import SALT_BYTES
from events.record import DATA, POSITION, SALT, STREAM, TYPE, Columns
from events.schema.event import MESSAGE_REDACTED
from events.schema.parts import Parts, media_of


class _Message(Struct):
    """What of an event can refer to files."""

    parts: Parts = ()
    files: tuple[str, ...] = ()  # of a message_redacted


_decoder = msgspec.json.Decoder(_Message)


def references_in(rows: Sequence[Columns]) -> Iterator[tuple[bytes, int, str]]:
    """(SHA-256, position, stream) of each file that an event among `rows` refers to. None for content that cannot be
    decoded, as a copy of a damaged log may have.
    """
    for row in rows:
        if not may_refer(row[TYPE], row[SALT]):
            continue
        try:
            message = _decoder.decode(row[DATA])
            digests = *digests_of(message.parts), *map(bytes.fromhex, message.files)
        except (msgspec.DecodeError, ValueError):
            continue
        for sha256 in digests:
            yield sha256, row[POSITION], row[STREAM]


def may_refer(kind: str, salt: bytes | None) -> bool:
    """Whether the content of a row of this type and salt may refer to files: it is not erased, and has parts."""
    return salt is not None and (len(salt) != SALT_BYTES or kind == MESSAGE_REDACTED)


def digests_of(parts: Parts) -> tuple[bytes, ...]:
    """The SHA-256 of each file in `parts`, once."""
    return tuple(dict.fromkeys([bytes.fromhex(medium.sha256) for medium in media_of(parts)]))
