"""What is left of redacted events, put in the place of their content when events are read. For both stores."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from events.record import DATA, POSITION, SCHEMA_VERSION, TYPE, VERSION

RedactionRow = tuple[int, int, str]  # position of an event, position and data of the message_redacted for it


class _Kept(Struct):
    version: int
    schema_version: int
    data: str


class _Redaction(Struct):
    kept: tuple[_Kept, ...] = ()


_decode = msgspec.json.Decoder(_Redaction).decode


def with_kept(rows: Sequence[Sequence[Any]], redactions: Iterable[RedactionRow]) -> list[tuple[Any, ...]]:
    """`rows` (the columns of events up to their data) with what is left of those that `redactions` are about. Raises
    ValueError for a damaged redaction.
    """
    decoded: dict[int, dict[int, _Kept]] = {}
    kept_in: dict[int, dict[int, _Kept]] = {}
    for position, redacted_by, data in redactions:
        if redacted_by not in decoded:
            decoded[redacted_by] = {one.version: one for one in _decode(data).kept}
        kept_in[position] = decoded[redacted_by]
    return [_with_kept(row, kept_in.get(row[POSITION], {}).get(row[VERSION])) for row in rows]


def _with_kept(row: Sequence[Any], kept: _Kept | None) -> tuple[Any, ...]:
    if kept is None or row[DATA] is not None or not kept.data.startswith(f'{{"type":"{row[TYPE]}"'):
        return tuple(row)  # of another type is only what was forged: `verify` says so, and here it is an erased event
    return (*row[:SCHEMA_VERSION], kept.schema_version, *row[SCHEMA_VERSION + 1 : DATA], kept.data)
