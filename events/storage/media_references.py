"""Which files rows refer to: what a store's tables of references are made of, for appends and for copies alike."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from events.integrity.hash_chain import SALT_BYTES
from events.record import DATA, SALT, STREAM, Columns
from events.schema.parts import Parts, media_of

POSITION = 0  # index in a row's columns


class _Message(Struct):
    """What of an event can refer to files."""

    parts: Parts = ()


_decoder = msgspec.json.Decoder(_Message)


def references_in(rows: Sequence[Columns]) -> Iterator[tuple[bytes, int, str]]:
    """(SHA-256, position, stream) of each file that an event among `rows` refers to. None for content that cannot be
    decoded, as a copy of a damaged log may have.
    """
    for row in rows:
        if row[SALT] is None or len(row[SALT]) == SALT_BYTES:  # erased, or without parts
            continue
        try:
            digests = digests_of(_decoder.decode(row[DATA]).parts)
        except (msgspec.DecodeError, ValueError):
            continue
        for sha256 in digests:
            yield sha256, row[POSITION], row[STREAM]


def digests_of(parts: Parts) -> tuple[bytes, ...]:
    """The SHA-256 of each file in `parts`, once."""
    return tuple(dict.fromkeys([bytes.fromhex(medium.sha256) for medium in media_of(parts)]))
