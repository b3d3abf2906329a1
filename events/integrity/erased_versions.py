"""Which versions of a stream are erased, and which of them a message_redacted explains."""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from events.catalogue import MESSAGE_REDACTED
from events.record import StoredRow

RAW_MESSAGE_REDACTED = MESSAGE_REDACTED.encode()


class _Versions(Struct):
    versions: tuple[int, ...] = ()


class _Message(Struct):
    message_id: str = ""


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_versions = msgspec.json.Decoder(_Versions).decode


def redacted_versions(row: StoredRow) -> tuple[int, ...]:
    """The versions whose content is gone because of this row: none where it is no message_redacted, or is erased."""
    if row.type != MESSAGE_REDACTED or row.data is None:
        return ()
    try:
        return tuple(version for version in _decode_versions(row.data).versions if 0 < version < row.version)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ()


def redacted_message(row: StoredRow) -> str:
    """The id of the message of a row that has `redacted_versions`; empty if it is damaged."""
    try:
        return _decode_message(row.data or "").message_id
    except (ValueError, RecursionError):
        return ""


class ErasedVersions:
    """Versions of one stream, as ranges, in the order of their rows: memory grows with the gaps between them."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, int]] = []  # first and last version, position of the first or an earlier one

    def __bool__(self) -> bool:
        return bool(self._ranges)

    @property
    def first_version(self) -> int:
        return self._ranges[0][0]

    @property
    def first_position(self) -> int:
        """Of the first of them; of an earlier one, if those before it in its range were removed."""
        return min(position for _, _, position in self._ranges)

    def add(self, version: int, position: int) -> None:
        """The next one."""
        if self._ranges and self._ranges[-1][1] == version - 1:
            first, _, first_position = self._ranges[-1]
            self._ranges[-1] = (first, version, first_position)
        else:
            self._ranges.append((version, version, position))

    def remove(self, versions: Iterable[int]) -> bool:
        """Whether all of them were there."""
        had_all = True
        for version in versions:
            index = next((i for i, (first, last, _) in enumerate(self._ranges) if first <= version <= last), None)
            if index is None:
                had_all = False
                continue
            first, last, position = self._ranges[index]
            before = [(first, version - 1, position)] if first < version else []
            after = [(version + 1, last, position)] if version < last else []
            self._ranges[index : index + 1] = before + after
        return had_all
