"""Recorded histories: logs of released versions, a row a line, kept to prove that this program still reads them.

A file is NDJSON: one object with every column a line, in order of position; salt, commitment and digest are
hexadecimal. `python -m tests.replay.record` writes the history of the current version.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from events.record import StoredRow

HISTORIES = Path(__file__).parent / "histories"
_BYTES = ("salt", "commitment", "digest")


def write(rows: Iterable[StoredRow]) -> str:
    """`rows` as the text of a history file."""
    lines = [msgspec.json.encode(_with_bytes(asdict(row), bytes.hex)).decode() for row in rows]
    return "".join(f"{line}\n" for line in lines)


def load(path: Path) -> list[StoredRow]:
    """The rows of a history file."""
    lines = path.read_bytes().splitlines()  # of bytes: those of text also end at U+2028, which a message may hold
    return [StoredRow(**_with_bytes(msgspec.json.decode(line), bytes.fromhex)) for line in lines]


def _with_bytes(columns: dict[str, Any], convert: Any) -> dict[str, Any]:
    return columns | {name: convert(columns[name]) for name in _BYTES if columns[name] is not None}
