"""Labels: metadata that sessions can be found by, kept as keyed hashes so that projections.db holds no words.

Names and texts are compared in Unicode's NFC form: "é" may be one code point or two, and a person who is searched for
in one form must be found in the other.

A label is 64 bits. Two entries may share one by chance, and whoever asks by label compares the real metadata, read
from the log, with `matches` before answering.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

LABEL_KEY_BYTES = 32
_encoder = msgspec.json.Encoder()


def compute_label(key: bytes, name: str, text: str) -> int:
    """The label of one metadata entry, as a signed 64-bit integer, which is what SQLite stores."""
    entry = _encoder.encode((normalize_nfc(name), normalize_nfc(text)))
    return int.from_bytes(hashlib.blake2b(entry, digest_size=8, key=key).digest(), "big", signed=True)


def compute_labels(key: bytes, metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """The labels of all top-level scalars of `metadata`, without repeats."""
    return tuple(dict.fromkeys(compute_label(key, name, text) for name, text in _texts(metadata)))


def compute_key_label(key: bytes, idempotency_key: str) -> int:
    """The label of a request's idempotency key. Of another form than metadata's, though they never share a table."""
    digest = hashlib.blake2b(idempotency_key.encode(), digest_size=8, key=key, person=b"idempotency")
    return int.from_bytes(digest.digest(), "big", signed=True)


def scalar_text(value: Any) -> str | None:
    """How a query writes a metadata value: true, 12, 1.5, null or the text itself. None for lists and objects."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return None
    return _encoder.encode(value).decode()


def normalize_nfc(text: str) -> str:
    """`text` in NFC, as it is compared. It is stored as it was sent."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def metadata_matches(metadata: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether `metadata` really has every wanted entry: what a label alone only makes very likely."""
    entries = {(normalize_nfc(name), normalize_nfc(text)) for name, text in _texts(metadata)}
    return all((normalize_nfc(name), normalize_nfc(text)) in entries for name, text in wanted.items())


def _texts(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in metadata.items():
        text = scalar_text(value)
        if text is not None:
            yield name, text
